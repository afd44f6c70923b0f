/** The settings of `rbees-workerd`: the table, and what follows from the machine where a setting is left open. */
import { availableParallelism, hostname } from "node:os";
import { basename } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { LORA_NAME, MODEL_NAME, WORKER_ID } from "@rbees/contracts/job";
import { regionProblem } from "@rbees/contracts/regions";
import { BACKENDS, CACHE_TYPES, type CacheType, ENGINES, type EngineName } from "@rbees/contracts/sets";
import type { Backend } from "@rbees/contracts/worker";
import { type ConfigOf, flag, number, pairs, text } from "@rbees/kit/config";
import { httpLimits } from "@rbees/kit/http-limits";
import { LOG_FORMATS, LOG_LEVELS, type LogFormat, type LogLevel } from "@rbees/kit/log";
import { PREFILL_CHUNK_TOKENS_DEFAULT, SLOTS_DEFAULT } from "@rbees/kit/model-memory";
import { isInClear, isLoopback } from "@rbees/kit/network";
import { renewalSettings } from "@rbees/kit/tls-renewal";
import { CONTEXT_MIN } from "./model-check.ts";
import { FEATURES_AUTO, FEATURES_NONE, featuresProblem, UPSTREAM_FEATURES } from "./openai/features.ts";

/** `--orchestrator none`: a worker that nobody schedules, for tests by hand. */
export const NO_ORCHESTRATOR = "none";

export const workerdSettings = {
  model: text<string>({ default: "", help: "the model's GGUF file (required); with --engine openai what that server calls it" }),
  model_name: text<string>({ default: "", help: "what the model is called; default: its file's name" }),
  worker_id: text<string>({ default: "", help: "default: host name and port" }),
  backend: text<Backend>({ default: "cpu", one_of: BACKENDS, help: BACKENDS.join(" | ") }),
  engine: text<EngineName>({
    default: "auto",
    one_of: ENGINES,
    help: "what computes: libllama (called directly, on a CPU only) | node-llama-cpp | auto (the first of these that works) | llama-server (llama.cpp's own program, which you have) | openai (a server that speaks OpenAI's API)",
  }),
  engine_path: text<string>({ default: "", help: "with --engine llama-server: where that program is; default: on PATH" }),
  engine_ready_ms_max: number({
    default: 600_000,
    min: 100,
    max: 86_400_000,
    help: "with --engine llama-server: how long it may take to load its model",
  }),
  engine_url: text<string>({
    default: "",
    matches: /^(|https?:\/\/\S+)$/,
    help: "with --engine openai: where its API is, up to and with /v1",
  }),
  engine_features: text<string>({
    default: FEATURES_AUTO,
    help: `with --engine openai: what that server can do beyond text: ${FEATURES_AUTO} (what is known of such servers), ${FEATURES_NONE}, or some of ${UPSTREAM_FEATURES.join(",")}`,
  }),
  engine_key_file: text<string>({ default: "", help: "with --engine openai: file with the key that it asks for" }),
  gpu: number({ default: 0, max: 255, help: "which GPU" }),
  gpu_layers: text<string>({
    default: "auto",
    help: "layers of the model that the GPU computes; auto: as many as its memory holds",
  }),
  host: text<string>({ default: "127.0.0.1", help: "address to listen on" }),
  insecure_no_auth: flag({ default: false, help: "answer everybody who can reach the address" }),
  port: number({ default: 8001, max: 65_535, help: "port to listen on; 0: any free one" }),
  slots: number({ default: SLOTS_DEFAULT, min: 1, max: 256, help: "answers at the same time" }),
  ctx: number({
    default: 0,
    max: 16_777_216,
    help: "tokens a slot holds, prompt and answer; 0: what model and memory allow, 8192 at most",
  }),
  cache_type: text<CacheType>({
    default: "f16",
    one_of: CACHE_TYPES,
    help: `how the context is kept: ${CACHE_TYPES.join(" | ")}; the shorter ones take less memory and cost time and exactness`,
  }),
  prefix_cache_bytes_max: text<string>({
    default: "auto",
    matches: /^(auto|\d{1,15})$/,
    help: "memory for what slots have computed and lose to other prompts, to be put back when one of those comes again; auto: a quarter of what the model leaves free, 1 GiB at most; 0: none",
  }),
  lora: pairs({ default: {}, help: "LoRA adapters for jobs that ask for them: name=FILE.gguf,…" }),
  speculate: number({
    default: 0,
    max: 32,
    help: "tokens of an answer guessed from its prompt and itself and computed along, where that pays; the text is the same; 0: none",
  }),
  prefix_cache_dir: text<string>({
    default: "",
    help: "folder in which that is kept while the worker is stopped, as <worker id>.prefixes, in clear; empty: nowhere",
  }),
  measured_bytes: number({
    default: 0,
    help: "memory that this model was seen to take with these slots and this context; 0: go by its header",
  }),
  threads: number({ default: 0, max: 1_024, help: "threads that compute; 0: all cores but one" }),
  deterministic: flag({ default: false, help: "same request, same tokens, whatever else runs; slower" }),
  orchestrator: text<string>({
    default: "http://localhost:8080",
    matches: /^(none|https?:\/\/\S+)$/,
    env: ["LLORCH_ORCHESTRATOR_URL"],
    help: "where to register; none: nowhere",
  }),
  tls_cert: text<string>({ default: "", help: "file of the TLS certificate, PEM; empty: beyond loopback that of `rbees tls`" }),
  tls_key: text<string>({ default: "", help: "file of its key, which only its owner may read" }),
  tls_ca: text<string>({
    default: "",
    help: "file of the authority that orchestrators have their certificates from; empty: that of `rbees tls`",
  }),
  ...renewalSettings,
  insecure_no_tls: flag({ default: false, help: "speak in clear, also with the orchestrator, whoever can listen on that network" }),
  join_token_file: text<string>({
    default: "",
    help: "file with the token with which it may register, once (`rbees workers invite`); from then on it has a credential of its own",
  }),
  secrets_dir: text<string>({
    default: "",
    help: "folder of the files <worker id>.credential (shown to the orchestrator) and .door (asked of callers); default: in the state folder",
  }),
  advertise_host: text<string>({ default: "", help: "the address that the orchestrator shall use; default: --host" }),
  advertise_port: number({ default: 0, max: 65_535, help: "the port that the orchestrator shall use; 0: --port" }),
  region: text<string>({ default: "", help: "where this machine stands, the country's code first, such as de; else it is in no area" }),
  labels: pairs({ default: {}, help: "labels for placement" }),
  prefill_chunk_tokens: number({
    default: PREFILL_CHUNK_TOKENS_DEFAULT,
    min: 1,
    max: 4_096,
    help: "prompt tokens computed in one step; below 64 a prompt costs about twice as much on a CPU",
  }),
  prefill_stretch_max: number({
    default: 3,
    max: 1_000,
    help: "a running answer's next token may take so many times as long while another prompt is computed; 0: however long a whole chunk takes",
  }),
  metrics_ms: number({ default: 500, min: 250, max: 1_000, help: "metrics events at most this often" }),
  drain_ms: number({ default: 30_000, max: 3_600_000, help: "how long running answers may take to finish at shutdown" }),
  body_bytes_max: number({ default: 8_388_608, min: 1_024, max: 268_435_456, help: "largest request" }),
  ...httpLimits,
  stream_buffer_bytes_max: number({
    default: 1_048_576,
    min: 1_024,
    max: 268_435_456,
    help: "unread bytes after which a slow reader is cut off",
  }),
  ping_ms: number({ default: 15_000, min: 100, max: 300_000, help: "a comment on a silent stream this often" }),
  log_level: text<LogLevel>({ default: "info", one_of: LOG_LEVELS, help: LOG_LEVELS.join(" | ") }),
  log_format: text<LogFormat>({ default: "auto", one_of: LOG_FORMATS, help: LOG_FORMATS.join(" | ") }),
};
export type WorkerdConfig = ConfigOf<typeof workerdSettings>;

/** What the table can't say: settings that must be there or must suit each other. */
export function checkConfig(config: WorkerdConfig): void {
  const problems: string[] = [];
  if (config.model === "") problems.push("model: is required; give the GGUF file with --model");
  problems.push(
    ...upstreamProblems(config),
    ...programProblems(config),
    ...prefixProblems(config),
    ...speculationProblems(config),
    ...loraProblems(config),
  );
  if (!MODEL_NAME.test(modelName(config)) && config.model !== "")
    problems.push(`model-name: "${modelName(config)}" is no model name; give one with --model-name`);
  const nowhere = config.region === "" ? undefined : regionProblem(config.region);
  if (nowhere !== undefined) problems.push(`region: ${nowhere}`);
  if (config.worker_id !== "" && !WORKER_ID.test(config.worker_id)) problems.push(`worker-id: must match ${WORKER_ID}`);
  if (config.orchestrator !== NO_ORCHESTRATOR && isInClear(config.orchestrator) && !config.insecure_no_tls)
    problems.push(
      `orchestrator: what is said to ${config.orchestrator} could be read on the way, this worker's secrets too; use https://, or add --insecure-no-tls if nobody on that network listens`,
    );
  if (!/^(auto|\d{1,4})$/.test(config.gpu_layers))
    problems.push(`gpu-layers: must be auto or a whole number up to 9999, not "${config.gpu_layers}"`);
  if (config.backend === "cpu" && Number(config.gpu_layers) > 0)
    problems.push(
      `gpu-layers: ${config.gpu_layers} layers need a GPU, and --backend cpu has none; leave it out, or choose --backend cuda or metal`,
    );
  if (config.engine === "libllama" && config.backend !== "cpu")
    problems.push(`engine: libllama computes on a CPU only; leave --engine out, and --backend ${config.backend} gets the one that can`);
  if (config.cache_type !== "f16" && config.deterministic)
    problems.push("cache-type: needs flash attention, which --deterministic switches off; leave one of the two out");
  if (config.ctx !== 0 && config.ctx < CONTEXT_MIN) problems.push(`ctx: must be 0 or at least ${CONTEXT_MIN}`);
  if (problems.length > 0) {
    throw new RbeesError("INVALID_REQUEST", `The configuration is not valid:\n${problems.map((problem) => `  ${problem}`).join("\n")}`);
  }
}

function upstreamProblems({ engine, engine_url, engine_key_file, engine_features, deterministic, backend }: WorkerdConfig): string[] {
  const given = [
    engine_url !== "" && "engine-url",
    engine_key_file !== "" && "engine-key-file",
    engine_features !== FEATURES_AUTO && "engine-features",
  ].filter((name) => name !== false);
  if (engine !== "openai") return given.map((name) => `${name}: is for --engine openai alone`);
  return [
    engine_url === "" && "engine-url: is required with --engine openai, such as http://127.0.0.1:8000/v1",
    backend !== "cpu" && `backend: the server at --engine-url has its own; leave --backend ${backend} out`,
    deterministic && "deterministic: can't be promised of another server; leave it out",
    featuresProblem(engine_features),
  ].filter((problem) => typeof problem === "string");
}

function programProblems({ engine, engine_path, deterministic }: WorkerdConfig): string[] {
  if (engine !== "llama-server") return engine_path === "" ? [] : ["engine-path: is for --engine llama-server alone"];
  return deterministic ? ["deterministic: llama-server does not promise that; leave it out, or use another --engine"] : [];
}

function prefixProblems(config: WorkerdConfig): string[] {
  const { prefix_cache_dir, prefix_cache_bytes_max, worker_id, port } = config;
  const has_engine = mayBeLibllama(config);
  const asked = Number(prefix_cache_bytes_max) > 0;
  const of_bytes =
    asked && !has_engine ? ["prefix-cache-bytes-max: needs the engine libllama, which alone keeps prefixes, and --backend cpu"] : [];
  if (prefix_cache_dir === "") return of_bytes;
  return [
    ...of_bytes,
    prefix_cache_bytes_max === "0" &&
      "prefix-cache-dir: with --prefix-cache-bytes-max 0 there is nothing to keep; leave one of the two out",
    !has_engine && "prefix-cache-dir: needs the engine libllama, which alone can keep it, and --backend cpu",
    worker_id === "" && port === 0 && "prefix-cache-dir: needs --worker-id or a --port, so that the next life finds the file again",
  ].filter((problem) => problem !== false);
}

function speculationProblems(config: WorkerdConfig): string[] {
  if (config.speculate === 0) return [];
  return [
    config.deterministic && "speculate: several tokens at once give other numbers than one at a time; leave it or --deterministic out",
    !mayBeLibllama(config) && "speculate: needs the engine libllama, which alone does it, and --backend cpu",
  ].filter((problem) => problem !== false);
}

/** A worker says of each that it has it. */
const LORAS_MAX = 32;

function loraProblems(config: WorkerdConfig): string[] {
  const loras = Object.entries(config.lora);
  if (loras.length === 0) return [];
  const wrong = loras.filter(([name, path]) => !LORA_NAME.test(name) || path === "");
  return [
    ...(loras.length > LORAS_MAX ? [`lora: ${loras.length} adapters are more than the ${LORAS_MAX} that a worker may have`] : []),
    ...wrong.map(
      ([name]) => `lora: "${name}" is no name for an adapter with its file; give name=FILE.gguf, the name in letters, digits and . _ -`,
    ),
    ...(mayBeLibllama(config) ? [] : ["lora: needs the engine libllama, which alone applies adapters, and --backend cpu"]),
  ];
}

/** Where it can't be called after all, another engine takes its place, and says what it can't do. */
export function mayBeLibllama({ engine, backend }: WorkerdConfig): boolean {
  return (engine === "auto" || engine === "libllama") && backend === "cpu";
}

/** Whether callers must show its secret: on loopback only if it knows its orchestrator by one too. */
export function isClosed({ insecure_no_auth, host, join_token_file }: WorkerdConfig, has_credential: boolean): boolean {
  return !insecure_no_auth && (!isLoopback(host) || join_token_file !== "" || has_credential);
}

export function modelName({ model, model_name, engine }: Pick<WorkerdConfig, "model" | "model_name" | "engine">): string {
  if (model_name !== "" || engine === "openai") return model_name || model;
  return basename(model).replace(/\.gguf$/i, "");
}

export function workerId({ worker_id }: Pick<WorkerdConfig, "worker_id">, port: number): string {
  if (worker_id !== "") return worker_id;
  const host = hostname()
    .replace(/[^A-Za-z0-9._:-]/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "");
  return `${host === "" ? "worker" : host}-${port}`.slice(-128);
}

/** One core is left to this process and the rest of the machine: engine threads that share a core wait for one another. */
export function threadCount({ threads }: Pick<WorkerdConfig, "threads">): number {
  return threads > 0 ? threads : Math.max(1, availableParallelism() - 1);
}

export function gpuLayers({ gpu_layers }: Pick<WorkerdConfig, "gpu_layers">): number | "auto" {
  return gpu_layers === "auto" ? "auto" : Number(gpu_layers);
}

export function prefixCacheBytes({ prefix_cache_bytes_max }: Pick<WorkerdConfig, "prefix_cache_bytes_max">): number | "auto" {
  return prefix_cache_bytes_max === "auto" ? "auto" : Number(prefix_cache_bytes_max);
}

/** What others can reach: an address that means "all of mine" is none. */
export function advertisedHost({ advertise_host, host }: Pick<WorkerdConfig, "advertise_host" | "host">): string {
  if (advertise_host !== "") return advertise_host;
  return host === "0.0.0.0" || host === "::" ? hostname() : host;
}
