/**
 * What programs say that have a slider for each option of Ollama and llama.cpp. Open WebUI sends these beside OpenAI's own fields too, so
 * both doors take them.
 */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { Sampling, TOP_K_MAX } from "./job.ts";
import { REPEAT_LAST_N } from "./sets.ts";

const { repeat_penalty, repeat_last_n } = Sampling.shape;

/** Numbers below 1 say "all of them", as in llama.cpp, Ollama and vLLM. */
export const TopK = z.int().min(-1).max(TOP_K_MAX);
/** 0 leaves only the likeliest, in OpenAI's API too. */
export const TopP = z.number().min(0).max(1);
/** A field that was opened and left empty says nothing. */
export const Think = z.union([z.boolean(), z.enum(["high", "medium", "low", ""])], "must be true, false, high, medium or low");
export type Think = z.infer<typeof Think>;
export const KEEP_ALIVE = may(z.union([z.string(), z.number()]), "How long an idle model stays is a setting of the orchestrator");

export const OF_WORKER = "How a model is loaded is said when its worker is started";
const WITHOUT = "Says nothing without its sampler";
const NO_SAMPLER = "there is no such sampler";

export const LLAMA_OPTIONS = {
  supported: {
    repeat_penalty: may(
      repeat_penalty.unwrap(),
      "Makes the tokens that came last less likely, in the prompt too, by this factor; none when not given, where Ollama has 1.1",
    ),
    repeat_last_n: may(
      repeat_last_n.unwrap(),
      `How many tokens \`repeat_penalty\` looks back over; ${REPEAT_LAST_N} when not given, 0: none, -1: all of them`,
    ),
  },
  hints: {
    num_ctx: may(z.int(), "The context is that of the model's workers"),
    num_keep: may(z.int(), "A prompt is never shortened"),
    num_batch: may(z.int(), OF_WORKER),
    num_gpu: may(z.int(), OF_WORKER),
    num_thread: may(z.int(), OF_WORKER),
    use_mmap: may(z.boolean(), OF_WORKER),
    use_mlock: may(z.boolean(), OF_WORKER),
    mirostat_tau: may(z.number(), WITHOUT),
    mirostat_eta: may(z.number(), WITHOUT),
  },
  refused: {
    mirostat: refused(NO_SAMPLER, 0),
    tfs_z: refused(NO_SAMPLER, 1),
    typical_p: refused(NO_SAMPLER, 1),
  },
} as const satisfies FieldTable;
