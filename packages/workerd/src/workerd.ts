/** The wiring of a worker: checks and loads the model, listens, registers. The only place where the parts meet. */
import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { freemem } from "node:os";
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { WORKER_SPEAKS } from "@rbees/contracts/protocol";
import { workerdRoutes } from "@rbees/contracts/routes";
import { EXTERNAL_DIGEST, LORA_FEATURE } from "@rbees/contracts/sets";
import type { RegisterWorker, WorkerHealth } from "@rbees/contracts/worker";
import type { Environment } from "@rbees/kit/config";
import { fingerprint } from "@rbees/kit/fingerprint";
import { readModel } from "@rbees/kit/gguf-split";
import { homeOf } from "@rbees/kit/home";
import { type Served, serve } from "@rbees/kit/http";
import { ENGINE_KEY, JOIN, readSecretFile } from "@rbees/kit/key-file";
import { assertListenable } from "@rbees/kit/listening";
import type { Log } from "@rbees/kit/log";
import { fetchTrusting, serverTls, type Tls, type TlsFiles, trusted } from "@rbees/kit/tls";
import { VERSION } from "@rbees/kit/version";
import { workerFolder } from "@rbees/kit/worker-files";
import { workerdHandlers } from "./api.ts";
import { Attempts } from "./attempts.ts";
import {
  advertisedHost,
  checkConfig,
  gpuLayers,
  isClosed,
  mayBeLibllama,
  modelName,
  NO_ORCHESTRATOR,
  prefixCacheBytes,
  threadCount,
  type WorkerdConfig,
  workerId,
} from "./config.ts";
import type { EngineOptions, ModelFacts } from "./engine.ts";
import { EngineSupervisor } from "./engine-supervisor.ts";
import { Enlist, type EnlistLimits } from "./enlist.ts";
import { type CheckedAdapters, checkAdapters } from "./lora-check.ts";
import { createMetrics } from "./metrics.ts";
import { checkModel } from "./model-check.ts";
import { Door, Pass } from "./worker-secrets.ts";

export interface WorkerdHooks {
  /** `POST /shutdown` came: whoever owns the process calls `stop` and ends it. */
  on_shutdown: () => void;
  /** The worker can't go on: the engine is gone for good, or a newer life of this worker runs. */
  on_fatal: (error: RbeesError) => void;
  enlist_limits?: EnlistLimits;
}

export interface Workerd {
  readonly url: string;
  readonly worker_id: string;
  /** The engine's process, for tests that kill it. */
  readonly engine_pid: number | undefined;
  /** Drains, leaves the registry, closes, ends the engine. */
  stop(): Promise<void>;
}

/** How much of the loading passes between two lines in the log. */
const PROGRESS_STEP = 0.05;
/** How long open connections may take to close once every attempt has ended. */
const CLOSE_GRACE_MS = 1_000;

export async function createWorkerd(config: WorkerdConfig, log: Log, env: Environment, hooks: WorkerdHooks): Promise<Workerd> {
  checkConfig(config);
  const secrets = secretsOf(config, env);
  const epoch = Date.now();
  // Rather than after minutes of loading.
  await assertListenable({ host: config.host, port: config.port });
  const model = await modelFile(config);
  let attempts: Attempts | undefined;
  const engine = new EngineSupervisor(engineOptions(config, model), env, log, {
    step: (reports) => attempts?.took(reports),
    counted: (counts) => attempts?.counted(counts),
    progress: logProgress(log),
    lost: (error) => attempts?.lost(error),
    gave_up: hooks.on_fatal,
  });
  try {
    const facts = await engine.load();
    const missing = Object.keys(config.lora).find((name) => facts.loras?.includes(name) !== true);
    if (missing !== undefined)
      throw new RbeesError("ENGINE_FAILED", `--lora needs the engine libllama, and here ${facts.engine.name} computes: the log says why.`);
    const life = new Life(config, model, facts, engine, epoch, secrets, log);
    attempts = life.attempts;
    await life.listen(log, hooks.on_shutdown);
    life.enlist(log, hooks);
    return life;
  } catch (error) {
    await engine.stop();
    throw error;
  }
}

interface Secrets {
  /** Undefined: it answers everybody. */
  readonly door: Door | undefined;
  readonly join_token: string | undefined;
  readonly folder: string;
  /** What it shows its callers; undefined: it speaks in clear. */
  readonly tls: (Tls & TlsFiles) | undefined;
  /** The authority, PEM, that the orchestrator's certificate may be from. */
  readonly ca: string | undefined;
}

/** What was named must be there, and that is found out before a model is loaded. */
function secretsOf(config: WorkerdConfig, env: Environment): Secrets {
  const folder = config.secrets_dir === "" ? workerFolder(homeOf(env)) : config.secrets_dir;
  const id = config.worker_id !== "" || config.port > 0 ? workerId(config, config.port) : undefined;
  const has_credential = id !== undefined && Pass.isKept(folder, id);
  const join_token = config.join_token_file === "" ? undefined : readSecretFile(config.join_token_file, !has_credential, JOIN);
  const home = homeOf(env);
  return {
    door: isClosed(config, has_credential) ? new Door() : undefined,
    join_token,
    folder,
    tls: serverTls(config, home, "worker"),
    ca: trusted(config.tls_ca, home),
  };
}

interface ModelFile {
  name: string;
  digest: string;
  file_bytes: number;
  context_size: number;
  prefix_cache_bytes: number;
  lora_digests: Readonly<Record<string, string>>;
}

/** The server at `--engine-url` holds it: there is no file, and its tokens are not those of any model with another digest. */
function modelElsewhere(config: WorkerdConfig): ModelFile {
  const { model, engine_url, ctx } = config;
  const digest = EXTERNAL_DIGEST + createHash("sha256").update(`${engine_url}\n${model}`).digest("hex");
  return { name: modelName(config), digest, file_bytes: 0, context_size: ctx, prefix_cache_bytes: 0, lora_digests: {} };
}

const NO_ADAPTERS: CheckedAdapters = { file_bytes: 0, digests: {} };

async function modelFile(config: WorkerdConfig): Promise<ModelFile> {
  if (config.engine === "openai") return modelElsewhere(config);
  const { model: path, backend, slots, ctx, prefill_chunk_tokens, measured_bytes, cache_type } = config;
  // What a model needs is told of the whole worker, and this process is part of it.
  const adapters = Object.keys(config.lora).length === 0 ? NO_ADAPTERS : await checkAdapters(config.lora, await readModel(path));
  const available_bytes = process.availableMemory() + process.memoryUsage.rss() - adapters.file_bytes;
  const { gguf, context_size, prefix_cache_bytes } = await checkModel({
    ...{ path, backend, slots, prefill_chunk_tokens, available_bytes, measured_bytes, cache_type },
    prefix_cache_bytes: mayBeLibllama(config) ? prefixCacheBytes(config) : 0,
    context_size: ctx,
  });
  const digest = await fingerprint(path, gguf);
  return { name: modelName(config), digest, file_bytes: gguf.file_bytes, context_size, prefix_cache_bytes, lora_digests: adapters.digests };
}

/** A worker whose model is loaded. */
class Life implements Workerd {
  readonly attempts: Attempts;
  worker_id = "";
  url = "";
  readonly #config: WorkerdConfig;
  readonly #model: ModelFile;
  readonly #facts: ModelFacts;
  readonly #features: readonly string[];
  readonly #engine: EngineSupervisor;
  /** When this life began, milliseconds of the epoch: a newer life has a higher number. */
  readonly #epoch: number;
  readonly #secrets: Secrets;
  readonly #metrics: ReturnType<typeof createMetrics>;
  #server: Served | undefined;
  #enlist: Enlist | undefined;

  constructor(
    config: WorkerdConfig,
    model: ModelFile,
    facts: ModelFacts,
    engine: EngineSupervisor,
    epoch: number,
    secrets: Secrets,
    log: Log,
  ) {
    this.#config = config;
    this.#model = model;
    this.#facts = facts;
    this.#features = [...facts.features, ...(facts.loras ?? []).map((name) => LORA_FEATURE + name)];
    this.#engine = engine;
    this.#epoch = epoch;
    this.#secrets = secrets;
    this.#metrics = createMetrics(() => this.worker_id, {
      memory_bytes: () => (facts.vram_bytes > 0 ? facts.vram_bytes : engine.memory_bytes),
      prefix_cache_bytes: () => engine.prefix_cache_bytes,
      uptime_seconds: () => this.#uptimeSeconds(),
    });
    const { slots, metrics_ms, stream_buffer_bytes_max } = config;
    this.attempts = new Attempts({
      worker_id: () => this.worker_id,
      model: model.name,
      slots,
      features: this.#features,
      metrics_ms,
      stream_buffer_bytes_max,
      memory_bytes: () => this.#memoryBytes(),
      metrics: this.#metrics,
      log,
      engine,
    });
  }

  get engine_pid(): number | undefined {
    return this.#engine.pid;
  }

  async listen(log: Log, shutdown: () => void): Promise<void> {
    const { slots } = this.#config;
    const handlers = workerdHandlers({ attempts: this.attempts, metrics: this.#metrics, health: () => this.#health(), shutdown });
    const { door, folder, tls } = this.#secrets;
    const authorize = door === undefined ? undefined : (route: string, headers: IncomingHttpHeaders) => void door.check(route, headers);
    this.#server = await serve(workerdRoutes, handlers, { ...this.#config, log, tls, authorize });
    this.worker_id = workerId(this.#config, this.#server.port);
    door?.keepFor(folder, this.worker_id);
    this.url = this.#server.url;
    const { worker_id, url } = this;
    const { context_size, engine, step_us } = this.#facts;
    log.info({ url, worker_id, model: this.#model.name, slots, context_size, engine, step_us }, "ready");
  }

  enlist(log: Log, { on_fatal, enlist_limits }: WorkerdHooks): void {
    const { orchestrator } = this.#config;
    if (orchestrator === NO_ORCHESTRATOR) return;
    const { door, folder, join_token, ca } = this.#secrets;
    this.#enlist = new Enlist({
      url: orchestrator,
      registration: this.#registration(),
      fetch: fetchTrusting(ca),
      pass: door === undefined && join_token === undefined ? undefined : new Pass(folder, this.worker_id, join_token),
      beat: () => ({
        slots_busy: this.attempts.slots_busy,
        memory_bytes: this.#memoryBytes(),
        ...(this.#config.backend === "cpu" ? { memory_free_bytes: freemem() } : {}),
        tokens_per_second: this.attempts.tokens_per_second,
        draining: this.attempts.draining,
      }),
      log,
      on_fenced: on_fatal,
      ...(enlist_limits === undefined ? {} : { limits: enlist_limits }),
    });
    this.#enlist.start();
  }

  async stop(): Promise<void> {
    const drained = this.attempts.drain(this.#config.drain_ms);
    this.#enlist?.beatNow();
    await drained;
    await this.#enlist?.stop();
    await this.#server?.close(CLOSE_GRACE_MS);
    await this.#engine.store();
    await this.#engine.stop();
  }

  #registration(): RegisterWorker {
    const { backend, slots, region, labels, advertise_port } = this.#config;
    return {
      id: this.worker_id,
      host: advertisedHost(this.#config),
      port: advertise_port > 0 ? advertise_port : (this.#server?.port ?? 0),
      model: this.#model.name,
      backend,
      device: this.#facts.device,
      slots,
      context_size: this.#facts.context_size,
      model_digest: this.#model.digest,
      lora_digests: this.#model.lora_digests,
      model_bytes: this.#model.file_bytes,
      memory_bytes: this.#memoryBytes(),
      ...(region === "" ? {} : { region }),
      labels: { ...labels },
      features: [...this.#features],
      version: VERSION,
      ...WORKER_SPEAKS,
      engine: `${this.#facts.engine.name} ${this.#facts.engine.version}`,
      deterministic: this.#config.deterministic,
      epoch: this.#epoch,
      tls: this.#secrets.tls !== undefined,
      door: this.#secrets.door?.secret,
    };
  }

  #health(): WorkerHealth {
    const { backend, slots, deterministic, cache_type } = this.#config;
    const { device, context_size, engine } = this.#facts;
    return {
      status: this.attempts.draining ? "draining" : "ready",
      worker_id: this.worker_id,
      version: VERSION,
      model: this.#model.name,
      model_digest: this.#model.digest,
      backend,
      device,
      slots,
      slots_busy: this.attempts.slots_busy,
      context_size,
      deterministic,
      cache_type,
      tokens_per_second: this.attempts.tokens_per_second,
      memory_bytes: this.#memoryBytes(),
      prefix_cache_bytes: this.#engine.prefix_cache_bytes,
      prefix_cache_bytes_max: this.#facts.keeps_prefixes === true ? this.#model.prefix_cache_bytes : 0,
      speculate_tokens_max: this.#facts.speculates === true ? this.#config.speculate : 0,
      pid: process.pid,
      uptime_seconds: this.#uptimeSeconds(),
      registered: this.#enlist?.registered ?? false,
      closed: this.#secrets.door !== undefined,
      engine,
      features: [...this.#features],
    };
  }

  /** Of this process and the engine's. */
  #memoryBytes(): number {
    return process.memoryUsage.rss() + this.#engine.memory_bytes;
  }

  #uptimeSeconds(): number {
    return (Date.now() - this.#epoch) / 1000;
  }
}

function engineOptions(config: WorkerdConfig, { digest, context_size, prefix_cache_bytes, lora_digests }: ModelFile): EngineOptions {
  const {
    model,
    engine,
    backend,
    gpu,
    slots,
    deterministic,
    prefill_chunk_tokens,
    prefill_stretch_max,
    cache_type,
    engine_url,
    engine_key_file,
  } = config;
  const key = engine_key_file === "" ? undefined : readSecretFile(engine_key_file, true, ENGINE_KEY);
  return {
    ...(engine === "openai" ? { upstream: { url: engine_url, model, key, features: config.engine_features } } : {}),
    ...(engine === "llama-server" ? { program: { path: config.engine_path, ready_ms_max: config.engine_ready_ms_max } } : {}),
    model_path: model,
    ...{ engine, backend, gpu, slots, context_size, deterministic, prefill_chunk_tokens, prefill_stretch_max, cache_type },
    prefix_cache_bytes_max: prefix_cache_bytes,
    speculate_tokens_max: config.speculate,
    loras: config.lora,
    ...(config.prefix_cache_dir === ""
      ? {}
      : {
          prefix_file: {
            path: join(config.prefix_cache_dir, `${workerId(config, config.port)}.prefixes`),
            model_digest: digest,
            lora_digests,
          },
        }),
    gpu_layers: gpuLayers(config),
    threads: threadCount(config),
  };
}

/** One line for each step of the way, so that whoever spawned the worker can show it. */
function logProgress(log: Log): (fraction: number) => void {
  let said = -1;
  return (fraction) => {
    if (said >= 1 || (fraction - said < PROGRESS_STEP && fraction < 1)) return;
    said = fraction;
    log.info({ progress: Math.round(fraction * 1000) / 1000 }, "loading");
  };
}
