/** What passes between a worker and the orchestrator: registration, heartbeats, `/execute`, health. */
import { z } from "zod";
import {
  HELD_TWICE,
  heldOnce,
  LORA_NAME,
  LoraName,
  ModelName,
  PromptedAttempt,
  Sampling,
  Structure,
  Talk,
  TokenNumbers,
  WIRE_LIMITS,
  WorkerId,
} from "./job.ts";
import { DOOR_SECRET } from "./join.ts";
import { Region } from "./regions.ts";
import { BACKENDS, CACHE_TYPES, WORKER_STATUSES } from "./sets.ts";

export const Backend = z.enum(BACKENDS);
export type Backend = z.infer<typeof Backend>;

/** A name or an address; which one it is the resolver says. */
const HOST = /^[A-Za-z0-9:][A-Za-z0-9._:%-]{0,252}$/;

export const RegisterHeaders = z.object({
  "x-rbees-worker": z
    .string()
    .optional()
    .describe("Its id, for the log: a caller that may not register is refused before its body is read"),
});

/** Fields and features that a newer worker says beyond these are read over: nobody asks for them (`protocol.ts`). */
export const RegisterWorker = z
  .object({
    id: WorkerId,
    host: z.string().regex(HOST, "must be a name or an address, of at most 253 characters"),
    port: z.int().min(1).max(65_535),
    model: ModelName,
    backend: Backend.default("cpu"),
    device: z.string().default(""),
    slots: z.int().min(1).max(256).default(1),
    context_size: z.int().positive().optional().describe("Tokens a single slot can hold: prompt and answer together"),
    model_digest: z.string().optional(),
    model_bytes: z.int().nonnegative().optional(),
    memory_bytes: z.int().nonnegative().optional(),
    features: z.array(z.string().max(64)).max(64).default([]).describe("What its engine can do beyond what every engine can"),
    lora_digests: z
      .record(z.string().regex(LORA_NAME), z.string().max(128))
      .optional()
      .describe("Fingerprints of its LoRA adapters, by name: what differs is another build of the model"),
    region: Region.optional().describe("Where it stands; whoever does not say is in no area, such as the EU"),
    labels: z
      .record(z.string().min(1).max(63), z.string().max(255))
      .refine((labels) => Object.keys(labels).length <= WIRE_LIMITS.worker_labels_max, {
        message: `must have at most ${WIRE_LIMITS.worker_labels_max} labels`,
      })
      .default({}),
    version: z.string().default(""),
    protocol: z.int().nonnegative().default(0).describe("Of what it takes and says; 0: older than the first release, or it does not say"),
    protocol_min: z.int().nonnegative().default(0).describe("The lowest of an orchestrator with which it can work"),
    engine: z.string().max(128).optional().describe("What computes, with its version; jobs are replayed only on the same"),
    deterministic: z.boolean().optional().describe("Whether what runs beside a job can't change its text"),
    epoch: z.int().nonnegative().default(0).describe("Rises with each life of the worker: an older life is fenced off"),
    tls: z.boolean().default(false).describe("Whether it speaks TLS at that address"),
    door: z.string().regex(DOOR_SECRET).optional().describe("What the orchestrator shows the worker, which answers nobody else"),
    credential_sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .optional()
      .describe("With a join token: of the credential that the worker will show from now on"),
  })
  .meta({ id: "RegisterWorker" });
export type RegisterWorker = z.infer<typeof RegisterWorker>;

export const Registered = z.object({ status: z.literal("OK"), heartbeat_ms: z.int().positive() }).meta({ id: "Registered" });

/** What a newer worker says beyond this is read over. */
export const Beat = z
  .object({
    epoch: z.int().nonnegative().default(0),
    seq: z.int().nonnegative().optional().describe("Rises with each heartbeat of a life: one that was sent before is refused"),
    slots_busy: z.int().nonnegative(),
    memory_bytes: z.int().nonnegative(),
    memory_free_bytes: z.int().nonnegative().optional().describe("Free on its device"),
    tokens_per_second: z.number().nonnegative(),
    draining: z.boolean().default(false),
  })
  .meta({ id: "Heartbeat" });
export type Beat = z.infer<typeof Beat>;

export const WorkerView = z
  .object({
    worker_id: z.string(),
    status: z.enum(WORKER_STATUSES),
    address: z.string(),
    model: z.string(),
    backend: Backend,
    device: z.string(),
    slots: z.int(),
    jobs_running: z.int().describe("What the orchestrator has in flight there"),
    context_size: z.int().nullable(),
    memory_bytes: z.int().nullable(),
    tokens_per_second: z.number().nullable(),
    region: z.string().nullable(),
    labels: z.record(z.string(), z.string()),
    features: z.array(z.string()).default([]).describe("What its engine can do beyond what every engine can"),
    version: z.string(),
    epoch: z.int(),
    registered_at: z.string(),
    last_heartbeat_at: z.string(),
  })
  .meta({ id: "Worker" });
export type WorkerView = z.infer<typeof WorkerView>;
export const WorkerList = z
  .object({
    workers: z.array(WorkerView),
    orchestrator_version: z.string().optional().describe("What workers' versions are to be compared with"),
  })
  .meta({ id: "WorkerList" });
export type WorkerList = z.infer<typeof WorkerList>;

export const ModelView = z.object({
  model: z.string(),
  workers: z.array(z.string()).describe("Ids of the workers that serve it now"),
  digest: z.string().nullable(),
  context_size: z.int().nullable(),
});
export const ModelList = z.object({ models: z.array(ModelView) }).meta({ id: "ModelList" });

/**
 * One attempt; what it is to have beyond this, older workers refuse (`protocol.ts`). Exactly one of `prompt`, `messages` and `token_prompt`. `continue_from.tokens` are the tokens another attempt has
 * already sent to the client: they count towards `max_tokens`, take part in stop matching, and are not sent again.
 */
export const Execute = z
  .strictObject({
    job_id: z.string().min(1).max(128),
    attempt: z.int().positive().default(1),
    ...PromptedAttempt,
    token_prompt: TokenNumbers.optional().describe("The prompt as the numbers of its tokens, taken as they are: nothing comes before them"),
    lora: LoraName,
    cache_salt: z
      .string()
      .min(1)
      .max(128)
      .optional()
      .describe("Beginnings of prompts are used again only among requests with the same one"),
    ...Talk,
    ...Sampling.shape,
    ...Structure.shape,
    fit_context: z.boolean().default(false).describe("Fewer tokens than max_tokens where the context has no room for them"),
    continue_from: z.strictObject({ tokens: z.array(z.int().nonnegative()) }).optional(),
    deadline: z.iso.datetime().optional(),
    time_left_ms: z.int().positive().optional().describe("Like `deadline`, for callers whose clock is another"),
  })
  .refine(({ prompt, messages, token_prompt }) => [prompt, messages, token_prompt].filter((asked) => asked !== undefined).length === 1, {
    path: ["prompt"],
    message: "give one of prompt, messages and token_prompt",
  })
  .refine(heldOnce, HELD_TWICE)
  .meta({ id: "Execute" });
export type Execute = z.infer<typeof Execute>;

export const CancelAttempt = z.strictObject({ job_id: z.string().min(1).max(128) });

export const WorkerHealth = z
  .object({
    status: z.enum(["ready", "draining"]),
    worker_id: z.string(),
    version: z.string(),
    model: z.string(),
    model_digest: z.string(),
    backend: Backend,
    device: z.string(),
    slots: z.int(),
    slots_busy: z.int(),
    context_size: z.int(),
    deterministic: z.boolean(),
    cache_type: z.enum(CACHE_TYPES).default("f16").describe("How the context is kept"),
    tokens_per_second: z.number(),
    memory_bytes: z.int(),
    prefix_cache_bytes: z.int().default(0).describe("Of that, prefixes which slots have lost and which are kept"),
    prefix_cache_bytes_max: z.int().default(0).describe("How much they may take; 0: none are kept"),
    speculate_tokens_max: z.int().default(0).describe("How many tokens of an answer it may guess; 0: it does not"),
    pid: z.int().positive().describe("On its own host: tells it from another worker that took the same port"),
    uptime_seconds: z.number(),
    registered: z.boolean().describe("Whether the orchestrator knows this worker; false as well when it has not answered for a while"),
    closed: z.boolean().default(false).describe("Whether it answers only those who show its secret"),
    engine: z.object({ name: z.string(), version: z.string() }),
    features: z.array(z.string()).default([]).describe("What its engine can do beyond what every engine can"),
  })
  .meta({ id: "WorkerHealth" });
export type WorkerHealth = z.infer<typeof WorkerHealth>;
