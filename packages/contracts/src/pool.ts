/** What `rbees-pool` answers with `--json`: the same shapes travel over SSH to `rbees pool …`. */
import { z } from "zod";
import { StopReason } from "./job.ts";
import { POOL_WORKER_STATUSES } from "./sets.ts";
import { Backend } from "./worker.ts";

const PoolModelFile = z.object({ path: z.string(), bytes: z.int().nonnegative(), sha256: z.string() });

/** A model known on a host: its alias or name, and what its file is. */
export const PoolModel = z.object({
  name: z.string(),
  aliases: z.array(z.string()).describe("Other names for the same model"),
  reference: z.string().describe("Where it came from: an alias, hf:…, file:…, https://…"),
  present: z.boolean().describe("Whether its file is on this host"),
  path: z.string().nullable().describe("Its file, or the first of its files"),
  bytes: z.int().nonnegative().nullable(),
  sha256: z.string().nullable().describe("Null also for a model in several files: each has its own"),
  revision: z.string().nullable().describe("The commit of its repository"),
  files: z.array(PoolModelFile).describe("What was downloaded; empty for a file that was registered"),
  architecture: z.string().nullable(),
  quantisation: z.string().nullable(),
  context_size: z.int().nullable(),
  license: z.string().nullable(),
});
export type PoolModel = z.infer<typeof PoolModel>;

/** A file of which a part is here: a download that runs, or one that broke off and can go on. */
export const PoolUnfinished = z.object({
  name: z.string().describe("What the model will be called"),
  reference: z.string(),
  file: z.string(),
  bytes: z.int().nonnegative().describe("What is here of it"),
  bytes_total: z.int().nonnegative(),
  running: z.boolean().describe("Whether a process is downloading it now"),
});
export type PoolUnfinished = z.infer<typeof PoolUnfinished>;
export const PoolModels = z.object({
  models: z.array(PoolModel),
  unfinished: z.array(PoolUnfinished).default([]),
});

/** What `models download --json` prints while it works: a line for each, then one `downloaded`. */
export const PoolDownloadProgress = z.object({
  type: z.literal("progress"),
  name: z.string(),
  bytes: z.int().nonnegative(),
  bytes_total: z.int().nonnegative(),
  bytes_per_second: z.int().nonnegative().nullable(),
  left_ms: z.int().nonnegative().nullable(),
});
export type PoolDownloadProgress = z.infer<typeof PoolDownloadProgress>;
export const PoolDownloaded = z.object({
  type: z.literal("downloaded"),
  model: PoolModel,
  how: z.enum(["downloaded", "already_here", "by_another_process"]),
});
export type PoolDownloaded = z.infer<typeof PoolDownloaded>;

/** How much of a model a GPU has room for, estimated from its header. */
export const DeviceFit = z.object({
  backend: Backend,
  index: z.int(),
  name: z.string(),
  free_bytes: z.int(),
  layers: z.int().describe("So many of them"),
  layers_total: z.int().describe("The output is one of them"),
});
export type DeviceFit = z.infer<typeof DeviceFit>;

/** Whether a model would fit into a host's memory, told from its header. */
export const ModelFit = z.object({
  slots: z.int(),
  context_size: z.int().describe("Tokens of each slot"),
  weights_bytes: z.int(),
  context_bytes: z.int(),
  overhead_bytes: z.int().describe("The worker's processes and what it computes in"),
  estimated_bytes: z.int().describe("The sum of these"),
  measured_bytes: z.int().nullable().describe("What a worker with this file, context and slots was seen to take on this host"),
  needed_bytes: z.int().describe("What was measured, else what is estimated"),
  available_bytes: z.int(),
  fits: z.boolean(),
});
export type ModelFit = z.infer<typeof ModelFit>;

/** Where a worker registers, and what a join token for it has to be made for. */
const PoolWorkerJoins = z.object({
  orchestrator: z.string().nullable().describe("Null: nowhere"),
  pool: z.string().optional(),
  address: z.string().optional(),
  region: z.string().optional(),
});

/** A worker started on this host. `started_ticks` is the process's start time: a reused pid is never mistaken for it. */
export const PoolWorker = z.object({
  worker_id: z.string(),
  status: z.enum(POOL_WORKER_STATUSES),
  registered: z.boolean().nullable().default(null).describe("Whether its orchestrator knows it; null: it has none, or does not answer"),
  joins: PoolWorkerJoins.nullable().default(null).describe("Null: an earlier rbees does not say"),
  pid: z.int(),
  backend: Backend,
  model: z.string(),
  host: z.string(),
  port: z.int(),
  tls: z.boolean().default(false),
  slots: z.int(),
  slots_busy: z.int().nullable(),
  tokens_per_second: z.number().nullable(),
  memory_bytes: z.int().nullable(),
  estimated_bytes: z.int().nullable().default(null).describe("What its model's header let expect; null on a GPU"),
  uptime_seconds: z.number().nullable(),
  log: z.string(),
  started_at: z.string(),
});
export type PoolWorker = z.infer<typeof PoolWorker>;
export const PoolWorkers = z.object({ workers: z.array(PoolWorker) });

const PoolAnswerCheck = z.object({
  question: z.string(),
  text: z.string(),
  stop_reason: StopReason.nullable().describe("Null: the answer did not end well"),
  tokens_in: z.int().nonnegative(),
  tokens_out: z.int().nonnegative(),
  first_token_ms: z.number().nonnegative().nullable(),
  problems: z.array(z.string()).describe("What is wrong with the stream, its end, or the second run"),
});
export type PoolAnswerCheck = z.infer<typeof PoolAnswerCheck>;

/** What `worker check` found out: fixed questions, each asked twice without chance. */
export const PoolWorkerCheck = z.object({
  worker_id: z.string(),
  model: z.string(),
  model_digest: z.string(),
  backend: Backend,
  device: z.string(),
  engine: z.string(),
  context_size: z.int(),
  memory_bytes: z.int().nonnegative().describe("Held after the answers"),
  tokens_per_second: z.number().nonnegative().nullable().describe("Over all answers, one at a time"),
  answers: z.array(PoolAnswerCheck),
});
export type PoolWorkerCheck = z.infer<typeof PoolWorkerCheck>;

export const PoolBackend = z.object({
  backend: Backend,
  works: z.boolean(),
  reason: z.string().describe("Why it works or not"),
  devices: z.array(
    z.object({ index: z.int(), name: z.string(), memory_bytes: z.int().nullable(), free_bytes: z.int().nullable().optional() }),
  ),
});
export type PoolBackend = z.infer<typeof PoolBackend>;
export const PoolBackends = z.object({ backends: z.array(PoolBackend) });

export const PoolStatus = z.object({
  host: z.string(),
  platform: z.string(),
  cpu: z.object({ model: z.string(), cores: z.int() }),
  memory: z.object({ total_bytes: z.int(), available_bytes: z.int() }),
  disk: z.object({ path: z.string(), total_bytes: z.int(), available_bytes: z.int() }),
  backends: z.array(PoolBackend),
  models: z.array(
    PoolModel.extend({
      needed_bytes: z
        .int()
        .nonnegative()
        .nullable()
        .default(null)
        .describe("Memory that a worker with it needs, with default slots and context"),
    }),
  ),
  workers: z.array(PoolWorker),
});
export type PoolStatus = z.infer<typeof PoolStatus>;
