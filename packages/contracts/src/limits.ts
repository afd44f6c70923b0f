/** The limits of a tenant or a key: what may be said of them, and what holds. */
import { z } from "zod";
import { ModelName } from "./job.ts";
import { OVER_LIMIT_RULES } from "./sets.ts";

const limit = (what: string) =>
  z.int().nonnegative().max(1_000_000_000_000).nullable().optional().describe(`${what}; 0: no limit, null: as the configuration has it`);

/** What is left out stays as it is; of a new tenant or key it is as the configuration has it. */
export const LimitSettings = z.strictObject({
  requests_per_minute_max: limit("Requests a minute"),
  tokens_per_minute_max: limit("Tokens of prompts and answers a minute"),
  tokens_per_day_max: limit("Tokens of prompts and answers a day (UTC)"),
  jobs_queued_max: limit("Jobs that may wait at once"),
  jobs_running_max: limit("Jobs that may run at once; more of them wait"),
  models: z.array(ModelName).max(256).nullable().optional().describe("The models that may be asked for; none or null: all"),
  over_limit: z
    .enum(OVER_LIMIT_RULES)
    .nullable()
    .optional()
    .describe("What becomes of a request over one of the rates a minute: refused with 429, or accepted, to wait until the rate allows it"),
});
export type LimitSettings = z.infer<typeof LimitSettings>;

/** What holds; 0: no limit, no models: all. */
export const LimitsView = z
  .object({
    requests_per_minute_max: z.int(),
    tokens_per_minute_max: z.int(),
    tokens_per_day_max: z.int(),
    jobs_queued_max: z.int(),
    jobs_running_max: z.int(),
    models: z.array(z.string()),
    over_limit: z.enum(OVER_LIMIT_RULES),
  })
  .meta({ id: "Limits" });
export type LimitsView = z.infer<typeof LimitsView>;
