/** What a worker was asked for: kept in its record, so that it can be started again as it was. */
import { CACHE_TYPES, ENGINES } from "@rbees/contracts/sets";
import { Backend } from "@rbees/contracts/worker";
import { z } from "zod";

export const SpawnRequest = z.object({
  backend: Backend,
  model: z.object({ name: z.string(), path: z.string() }),
  engine: z.enum(ENGINES).optional(),
  engine_path: z.string().optional().describe("Of the program, for the engine llama-server; without it, the one on PATH"),
  engine_url: z
    .string()
    .optional()
    .describe("Of the server that computes, for the engine openai; `model.path` is what that calls the model"),
  engine_features: z.string().optional(),
  engine_key_file: z.string().optional(),
  gpu: z.int().optional(),
  gpu_layers: z
    .union([z.literal("auto"), z.int().nonnegative()])
    .optional()
    .describe("How many layers the GPU computes"),
  host: z.string(),
  port: z.int().optional().describe("Exactly this port; without it, the first free one from FIRST_PORT"),
  slots: z.int().optional(),
  ctx: z.int().optional(),
  cache_type: z.enum(CACHE_TYPES).optional(),
  prefix_cache_bytes_max: z.int().nonnegative().optional(),
  loras: z.record(z.string(), z.string()).optional().describe("Files of LoRA adapters, by name"),
  speculate: z.int().nonnegative().optional(),
  prefill_chunk_tokens: z.int().positive().optional(),
  prefill_stretch_max: z.int().nonnegative().optional(),
  prefix_cache_dir: z.string().optional(),
  threads: z.int().optional(),
  deterministic: z.boolean().optional(),
  orchestrator: z.string(),
  advertise_host: z.string().optional(),
  insecure_no_auth: z.boolean().optional().describe("Answer everybody who can reach it"),
  systemd: z.boolean().optional().describe("A unit of this user's systemd starts it, also after a reboot"),
  insecure_no_tls: z.boolean().optional().describe("Speak in clear, also where others can reach it"),
  name: z.string().optional(),
  region: z.string().optional(),
  labels: z.record(z.string(), z.string()).optional(),
  ready_ms_max: z.number(),
  registered_ms_max: z.number().optional().describe("Wait this long for the orchestrator to accept it; without it, don't wait"),
});
export type SpawnRequest = z.infer<typeof SpawnRequest>;
