/** The rules that an orchestrator has loaded, as `/v2/policy` shows them. */
import { z } from "zod";
import { POLICY_MODES } from "./sets.ts";

export const PolicyView = z
  .object({
    file: z.string().nullable().describe("Where they were read; null: there are none"),
    sha256: z.string().nullable().describe("Of the file as it was read"),
    mode: z.enum(POLICY_MODES).describe("log_only: what rules would do is written down, and not done"),
    timezone: z.string().describe("Whose hours `time` has"),
    loaded_at: z.string().nullable(),
    rules: z.array(
      z.object({
        name: z.string(),
        when: z.string(),
        effects: z.array(z.string()).describe("allow, deny, require, prefer, set, log"),
        jobs: z.int().nonnegative().describe("Jobs for which it held when they came, since it was loaded"),
      }),
    ),
  })
  .meta({ id: "Policy" });
export type PolicyView = z.infer<typeof PolicyView>;
