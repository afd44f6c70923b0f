/**
 * The closed sets of words that the schemas know. They stand apart so that a flag can name its choices without loading a schema:
 * `--help` does not wait for zod.
 */
export const PRIORITIES = ["interactive", "batch"] as const;

export const JOB_STATUSES = ["queued", "running", "succeeded", "failed", "cancelled"] as const;

/** What becomes of a job when its worker, or the orchestrator, is lost after the first token. */
export const WORKER_LOST_RULES = ["continue", "restart", "fail"] as const;

/** What becomes of a job when the connection that submitted it breaks. */
export const DISCONNECT_RULES = ["continue", "cancel"] as const;

/** `EMBEDDED`: the job was to make vectors, and has. */
export const STOP_REASONS = ["EOS", "MAX_TOKENS", "STOP_SEQUENCE", "EMBEDDED"] as const;

/** Where the requests of a batch may go. */
export const BATCH_ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] as const;

/** What a job asks for: text that goes on, or vectors of texts. */
export const JOB_KINDS = ["generate", "embed"] as const;

export const BACKENDS = ["cpu", "cuda", "metal"] as const;
/**
 * What computes: libllama called directly, or through node-llama-cpp; auto: the first of them that works; llama-server: that program of
 * llama.cpp's, which its user has; openai: a server that speaks OpenAI's API.
 */
export const ENGINES = ["auto", "libllama", "node-llama-cpp", "llama-server", "openai"] as const;
export type EngineName = (typeof ENGINES)[number];

/** How exactly a worker keeps what it has computed of a context: 16 bits a value, or blocks of 8 or 4 bits. */
export const CACHE_TYPES = ["f16", "q8_0", "q4_0"] as const;
export type CacheType = (typeof CACHE_TYPES)[number];

/** What not every engine can do. A job that needs one of these runs only where the worker says that it has it. */
export const FEATURES = [
  "grammar",
  "json_schema",
  "logit_bias",
  "penalties",
  "repeat_penalty",
  "embeddings",
  "tools",
  "logprobs",
  "tokenize",
  "token_prompts",
  "reasoning_effort",
] as const;
export type Feature = (typeof FEATURES)[number];

/** How long a model is told to think, from not at all. */
export const REASONING_EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh"] as const;
export type ReasoningEffort = (typeof REASONING_EFFORTS)[number];

/** How many tokens a repeat penalty looks back over when that is not said, as llama.cpp and Ollama have it. */
export const REPEAT_LAST_N = 64;

/** How a worker says among its features which LoRA adapters it has: this and the adapter's name. */
export const LORA_FEATURE = "lora:";

/** How the digest of a model begins that another server holds: nobody knows its tokens, so no answer of it is gone on with. */
export const EXTERNAL_DIGEST = "external:";

export const WORKER_STATUSES = ["ready", "draining"] as const;

export const ROLES = ["submit", "observe", "operate", "audit"] as const;

export const KEY_STATUSES = ["live", "expired", "revoked"] as const;

export const POOL_WORKER_STATUSES = ["starting", "ready", "draining", "unresponsive", "dead"] as const;

/** What becomes of a job that is over a rate: it is refused, or waits until the rate allows it. */
export const OVER_LIMIT_RULES = ["refuse", "queue"] as const;

/** Other names under which people ask for a known model → its own name. */
const MODEL_ALIASES: ReadonlyMap<string, string> = new Map([["qwen", "qwen-0.5b"]]);

/** What a model is really called. */
export function canonicalModel(name: string): string {
  return MODEL_ALIASES.get(name) ?? name;
}

/** By which other names a model goes. */
export function aliasesOf(name: string): string[] {
  return [...MODEL_ALIASES].filter(([, own]) => own === name).map(([alias]) => alias);
}

/** Whether a job's prompt and answer are still kept: their time was over, their subject was erased, or their key is not there. */
export const CONTENT_STATES = ["kept", "expired", "erased", "unreadable"] as const;

/** What the command line does on a pool's machine and tells the orchestrator of. */
export const POOL_ACTS = [
  "model.download",
  "model.delete",
  "model.register",
  "model.unregister",
  "worker.spawn",
  "worker.stop",
  "worker.restart",
] as const;

/** Whether rules are kept, or only written down. */
export const POLICY_MODES = ["enforce", "log_only"] as const;
export type PolicyMode = (typeof POLICY_MODES)[number];
