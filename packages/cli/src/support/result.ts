/** What became of one model on one backend of one host. */
import { StopReason } from "@rbees/contracts/job";
import { Backend } from "@rbees/contracts/worker";
import { z } from "zod";

/** What the figures depend on, and nothing that says whose host it is. */
const Host = z.object({
  processor: z.string(),
  cores: z.int(),
  system: z.string(),
  device: z.string().nullable().describe("The GPU, where the backend has one"),
});
export type Host = z.infer<typeof Host>;

const Figures = z.object({
  load_ms: z.int().describe("From the command until the worker could work: its programs start and the model is read"),
  tokens_per_second: z.number().nullable(),
  first_token_ms: z.number().nullable(),
  memory_bytes: z.int(),
  stop_reasons: z.array(StopReason.nullable()),
  context_size: z.int(),
  model_digest: z.string(),
  engine: z.string(),
});
export type Figures = z.infer<typeof Figures>;

export const SupportResult = z.object({
  model: z.string(),
  backend: Backend,
  outcome: z.enum(["passed", "failed", "skipped"]),
  reason: z.string().nullable().describe("Why it failed or was not run"),
  host: Host.nullable().describe("Null: it did not answer"),
  figures: Figures.nullable(),
  at: z.iso.datetime(),
  rbees: z.string(),
});
export type SupportResult = z.infer<typeof SupportResult>;

/** With the name of the machine, which is for whoever ran it. */
export type PoolResult = SupportResult & { pool: string };
