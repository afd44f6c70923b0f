/** An orchestrator for tests: it serves the real route table and does what a script says. */
import type { PoolAct } from "@rbees/contracts/act";
import type { BatchObject, FileObject } from "@rbees/contracts/batch";
import { RbeesError } from "@rbees/contracts/errors";
import type { JobEvent } from "@rbees/contracts/events";
import type { Consent } from "@rbees/contracts/gdpr";
import type { JobSummary, JobView, SubmitJob } from "@rbees/contracts/job";
import type { PolicyView } from "@rbees/contracts/policy";
import { orcdRoutes } from "@rbees/contracts/routes";
import { encodeEvent } from "@rbees/contracts/sse";
import type { TenantView } from "@rbees/contracts/tenant";
import type { RegisterWorker, WorkerView } from "@rbees/contracts/worker";
import type { EventStream } from "@rbees/kit/event-stream";
import { type Handlers, type Served, serve } from "@rbees/kit/http";
import { silentLog } from "@rbees/kit/log";
import { VERSION } from "@rbees/kit/version";

export interface Script {
  /** Events of every job; `cut` breaks the connection there, once; `hang` keeps the stream open. */
  events: (JobEvent | "cut" | "hang")[];
  /** Answers the events of a job with 410. */
  gone?: boolean;
  /** What `jobs show` says. */
  text?: string;
  /** And what else of the answer. */
  said?: Pick<JobView, "reasoning" | "tool_calls">;
  /** The text of its replay. */
  replayed?: string;
  refuse?: RbeesError;
  /** Kept here as they are made. */
  batches?: Map<string, BatchObject>;
  /** Cancelling takes for ever. */
  cancel_hangs?: boolean;
}

export interface FakeOrchestrator {
  url: string;
  submitted: SubmitJob[];
  cancelled: string[];
  /** `Last-Event-ID` of each connection, in order. */
  resumed: (string | undefined)[];
  workers: Map<string, WorkerView>;
  drained: string[];
  acts: PoolAct[];
  /** One more event for those who hang on. */
  send(event: JobEvent): void;
  close(): Promise<void>;
}

const POLICY: PolicyView = {
  file: "/etc/rbees/policy.toml",
  sha256: "0".repeat(64),
  mode: "enforce",
  timezone: "UTC",
  loaded_at: "2026-01-01T00:00:00.000Z",
  rules: [{ name: "eu-only", when: 'tenant == "acme"', effects: ["require"], jobs: 3 }],
};
const UNLIMITED: TenantView["limits"] = {
  requests_per_minute_max: 0,
  tokens_per_minute_max: 0,
  tokens_per_day_max: 0,
  jobs_queued_max: 0,
  jobs_running_max: 0,
  models: [],
  over_limit: "refuse",
};

export const JOB = "job_1";
/** The job that a replay makes. */
const REPLAY = "job_2";
export const SUBJECT = "customer-4711";

export async function fakeOrchestrator(script: Script, port = 0): Promise<FakeOrchestrator> {
  const submitted: SubmitJob[] = [];
  const cancelled: string[] = [];
  const resumed: (string | undefined)[] = [];
  const workers = new Map<string, WorkerView>();
  const drained: string[] = [];
  const tenants = new Map<string, TenantView>();
  const tenantOf = (name: string): TenantView => {
    const tenant = tenants.get(name);
    if (tenant === undefined) throw new RbeesError("NOT_FOUND", `There is no tenant ${name}.`);
    return tenant;
  };
  const batches = script.batches ?? new Map<string, BatchObject>();
  const batchOf = (id: string): BatchObject => {
    const batch = batches.get(id);
    if (batch === undefined) throw new RbeesError("NOT_FOUND", `There is no batch ${id}.`);
    return batch;
  };
  const acts: PoolAct[] = [];
  const consents: Consent[] = [];
  const subjectOf = <T extends { subject: string }>(asked: T): T => {
    if (asked.subject !== SUBJECT) throw new RbeesError("NOT_FOUND", "Nothing is kept of this subject.");
    return asked;
  };
  const hanging = new Set<EventStream>();
  let cuts = 0;
  const known = (id: string) => {
    if (id !== JOB) throw new RbeesError("NOT_FOUND", `There is no job ${id}.`);
  };
  const cancel = ({ params }: { params: { id: string } }) => {
    known(params.id);
    cancelled.push(params.id);
    if (script.cancel_hangs) return new Promise<never>(() => {});
    return { status: 202, json: { ...summary(script), status: "cancelled" as const } };
  };
  const neverAsked = () => {
    throw new RbeesError("NOT_FOUND", "No verb asks for this.");
  };
  const send = (event: JobEvent) => {
    for (const stream of hanging) stream.writeText(encodeEvent(event));
  };
  const handlers: Handlers<typeof orcdRoutes> = {
    root: neverAsked,
    health: ({ wants }) =>
      wants.json
        ? { json: { status: "OK", version: "0.1.0", uptime_seconds: 1, workers: workers.size, queue_depth: 0, keys_required: false } }
        : { text: "OK" },
    submitJob({ body }) {
      if (script.refuse !== undefined) throw script.refuse;
      submitted.push(body);
      return { status: 202, json: { job_id: JOB, status: "queued", queue_position: 0, events_url: `/v2/tasks/${JOB}/events` } };
    },
    listJobs: () => ({ json: { tasks: [summary(script)] } }),
    showJob({ params }) {
      if (params.id === REPLAY) return { json: { ...view(script), job_id: REPLAY, text: script.replayed ?? "" } };
      known(params.id);
      return { json: view(script) };
    },
    followJob({ params, headers }) {
      if (params.id !== REPLAY) known(params.id);
      if (script.gone) throw new RbeesError("GONE", "The events are gone.");
      const after = headers["last-event-id"];
      resumed.push(typeof after === "string" ? after : undefined);
      return {
        events(stream) {
          let id = 0;
          let cuts_seen = 0;
          for (const event of script.events) {
            if (event === "hang") return void hanging.add(stream);
            if (event === "cut") {
              cuts_seen += 1;
              if (cuts_seen <= cuts) continue;
              cuts += 1;
              // What was written is read first: only then does the connection end.
              return stream.end();
            }
            id += 1;
            if (id > Number(after ?? 0)) stream.writeText(encodeEvent(event, id));
          }
          stream.end();
        },
      };
    },
    explainJob({ params }) {
      known(params.id);
      return {
        json: {
          job_id: JOB,
          status: "queued",
          answer: "It waits for a free slot.",
          policy: "eta",
          rules: [],
          workers: [{ worker_id: "w1", verdict: "excluded", reason: "no slot is free", score: null, cached_tokens: null }],
        },
      };
    },
    deleteJob: cancel,
    cancelJob: cancel,
    replayJob({ params }) {
      known(params.id);
      if (script.refuse !== undefined) throw script.refuse;
      const build = { worker_id: "w1", model_digest: "sha256:a", engine: "libllama 1", deterministic: false };
      return { status: 202, json: { job_id: REPLAY, replay_of: params.id, ...build, events_url: `/v2/tasks/${REPLAY}/events` } };
    },
    registerWorker({ body }) {
      workers.set(body.id, workerView(body));
      return { json: { status: "OK", heartbeat_ms: 1000 } };
    },
    beat: () => ({ json: { status: "OK" } }),
    removeWorker({ params }) {
      workers.delete(params.id);
      return { none: true };
    },
    listWorkers: () => ({ json: { workers: [...workers.values()], orchestrator_version: VERSION } }),
    drainWorker({ params }) {
      const worker = workers.get(params.id);
      if (worker === undefined) throw new RbeesError("NOT_FOUND", `There is no worker ${params.id}.`);
      drained.push(params.id);
      const draining: WorkerView = { ...worker, status: "draining" };
      workers.set(params.id, draining);
      return { status: 202, json: draining };
    },
    inviteWorker: ({ body: { pool = null, worker_id = null, address = null, region = null } }) => {
      const token = `rbj_0123456789ab_${"x".repeat(43)}`;
      return {
        status: 201,
        json: { token_id: "0123456789ab", pool, worker_id, address, region, expires_at: "2026-01-01T00:10:00.000Z", token },
      };
    },
    expelWorker: ({ params }) => ({ json: { worker_id: params.id, expelled: workers.delete(params.id) } }),
    listModels: () => ({ json: { models: [{ model: "demo", workers: ["w1"], digest: "sha256:0123456789abcdef", context_size: 512 }] } }),
    openaiModels: neverAsked,
    openaiModel: neverAsked,
    openaiChat: neverAsked,
    openaiCompletion: neverAsked,
    openaiEmbeddings: ({ body: { input, dimensions } }) => ({
      json: {
        object: "list",
        data: input.map((_, index) => ({ object: "embedding", index, embedding: [1, 2, 3].slice(0, dimensions ?? 3) })),
        model: "demo",
        usage: { prompt_tokens: 2, total_tokens: 2 },
      },
    }),
    createFile: ({ body: { file } }) => ({ json: fileObject(`${file.name} ${Buffer.from(file.bytes).toString("utf8")}`) }),
    listFiles: neverAsked,
    showFile: neverAsked,
    fileContent: ({ params }) => ({ text: `content of ${params.id}\n` }),
    deleteFile: neverAsked,
    createBatch({ body: { endpoint, input_file_id } }) {
      const batch = batchObject("batch_1", endpoint, input_file_id);
      batches.set(batch.id, batch);
      return { json: batch };
    },
    listBatches: () => ({ json: { object: "list", data: [...batches.values()], has_more: false, first_id: null, last_id: null } }),
    showBatch: ({ params }) => ({ json: batchOf(params.id) }),
    cancelBatch: ({ params }) => ({ json: { ...batchOf(params.id), status: "cancelling" } }),
    openaiResponse: neverAsked,
    anthropicMessages: neverAsked,
    anthropicCountTokens: neverAsked,
    tokenize: neverAsked,
    ollamaVersion: neverAsked,
    ollamaTags: neverAsked,
    ollamaRunning: neverAsked,
    ollamaShow: neverAsked,
    ollamaChat: neverAsked,
    ollamaGenerate: neverAsked,
    ollamaEmbed: neverAsked,
    ollamaEmbeddings: neverAsked,
    listKeys: neverAsked,
    createKey: neverAsked,
    rotateKey: neverAsked,
    setKey: neverAsked,
    revokeKey: neverAsked,
    showPolicy: () => ({ json: POLICY }),
    reloadPolicy: () => ({ json: POLICY }),
    listTenants: () => ({ json: { tenants: [...tenants.values()] } }),
    createTenant({ body: { name, weight = 1, residency = null, content_keep_ms, ...said } }) {
      const limits = { ...UNLIMITED, ...said } as TenantView["limits"];
      const shared = { tokens_today: 0, keys: 0, created_at: "2026-01-01T00:00:00.000Z" };
      tenants.set(name, { name, weight, residency, limits, content_keep_ms: content_keep_ms ?? 2_592_000_000, ...shared });
      return { status: 201, json: tenantOf(name) };
    },
    showTenant: ({ params }) => ({ json: tenantOf(params.id) }),
    setTenant({ params, body }) {
      const { weight = tenantOf(params.id).weight, residency = tenantOf(params.id).residency, content_keep_ms, ...said } = body;
      const news = Object.entries(said).map(([name, one]) => [name, one ?? UNLIMITED[name as keyof typeof UNLIMITED]]);
      const limits = { ...tenantOf(params.id).limits, ...Object.fromEntries(news) } as TenantView["limits"];
      const kept = content_keep_ms === null ? 2_592_000_000 : (content_keep_ms ?? tenantOf(params.id).content_keep_ms);
      tenants.set(params.id, { ...tenantOf(params.id), weight, residency, limits, content_keep_ms: kept });
      return { json: tenantOf(params.id) };
    },
    recordAct({ body }) {
      if (script.refuse !== undefined) throw script.refuse;
      acts.push(body);
      return { none: true };
    },
    exportSubject: ({ body }) => {
      const { subject, tenant = "default", cursor } = subjectOf(body);
      const n = Number(cursor ?? 0);
      const job = { ...summary(script), job_id: `job_${n}`, content: "kept" as const, request: { prompt: subject }, text: "answer" };
      const lines = n < 2 ? [] : [{ file_id: "file-1", batch_id: null, line: 7, text: "line" }];
      const more = n < 2 ? { next_cursor: String(n + 1) } : {};
      return { json: { subject_id: "sub_1", tenant, consents: [...consents], jobs: [job], lines, ...more } };
    },
    eraseSubject: ({ body }) => {
      const { tenant = "default" } = subjectOf(body);
      return { json: { subject_id: "sub_1", tenant, jobs: 3, lines: 2, cancelled: 1 } };
    },
    recordConsent: ({ body: { purpose, given } }) => {
      const consent = { purpose, given, at: "2026-01-01T00:00:00.000Z" };
      consents.push(consent);
      return { status: 201, json: consent };
    },
    listConsents: ({ query }) => {
      const { tenant = "default" } = subjectOf(query);
      return { json: { subject_id: "sub_1", tenant, consents } };
    },
    deleteTenant({ params }) {
      tenants.delete(tenantOf(params.id).name);
      return { none: true };
    },
    metrics: () => ({ text: "" }),
    openapi: () => ({ json: {} }),
  };
  const served: Served = await serve(orcdRoutes, handlers, {
    host: "127.0.0.1",
    port,
    log: silentLog(),
    body_bytes_max: 1_000_000,
    ping_ms: 15_000,
  });
  return { url: served.url, submitted, cancelled, resumed, workers, drained, acts, send, close: () => served.close(0) };
}

function fileObject(id: string): FileObject {
  return { id, object: "file", bytes: 1, created_at: 0, filename: "in.jsonl", purpose: "batch", status: "processed" };
}

function batchObject(id: string, endpoint: string, input_file_id: string): BatchObject {
  const never = { failed_at: null, expired_at: null, cancelling_at: null, cancelled_at: null, finalizing_at: null, completed_at: null };
  return {
    ...{ id, object: "batch", endpoint, input_file_id, completion_window: "24h", status: "in_progress", ...never },
    errors: { object: "list", data: [{ code: "invalid_json_line", message: "no JSON", param: null, line: 2 }] },
    ...{ output_file_id: "file-out", error_file_id: null, created_at: 0, in_progress_at: 1, expires_at: 86_400, metadata: null },
    request_counts: { total: 3, completed: 1, failed: 1 },
  };
}

function summary({ events }: Script): JobSummary {
  const last = events.at(-1);
  const failed = typeof last === "object" && last.type === "error" ? last : undefined;
  const ended = typeof last === "object" && last.type === "end" ? last : undefined;
  const { tokens_in = 3, tokens_out = 2, tokens_cached = 0 } = ended ?? {};
  return {
    job_id: JOB,
    tenant: "default",
    kind: "generate",
    status: failed !== undefined ? "failed" : ended !== undefined ? "succeeded" : "running",
    model: "demo",
    priority: "interactive",
    worker_id: "w1",
    submitted_at: "2026-01-01T00:00:00.000Z",
    started_at: "2026-01-01T00:00:00.100Z",
    first_token_at: "2026-01-01T00:00:00.200Z",
    ended_at: ended === undefined ? null : "2026-01-01T00:00:01.000Z",
    queue_position: null,
    stop_reason: ended?.stop_reason ?? null,
    usage: { tokens_in, tokens_out, tokens_cached },
    error: failed === undefined ? null : { code: failed.code, message: failed.message, retriable: failed.retriable },
  };
}

function view(script: Script): JobView {
  return {
    ...summary(script),
    text: script.text ?? "",
    ...script.said,
    timings: { prefill_ms: 10, decode_ms: 100 },
    attempts: [{ attempt: 1, worker_id: "w1", started_at: "2026-01-01T00:00:00.100Z", ended_at: null, outcome: null }],
    seed: 1,
    metadata: { team: "blue" },
    correlation_id: "c-1",
    content: "kept",
  };
}

export function workerView(body: RegisterWorker): WorkerView {
  return {
    worker_id: body.id,
    status: "ready",
    address: `http://${body.host}:${body.port}`,
    model: body.model,
    backend: body.backend,
    device: body.device,
    slots: body.slots,
    jobs_running: 0,
    context_size: body.context_size ?? null,
    memory_bytes: body.memory_bytes ?? null,
    tokens_per_second: null,
    region: body.region ?? null,
    labels: body.labels,
    features: body.features,
    version: body.version,
    epoch: body.epoch,
    registered_at: "2026-01-01T00:00:00.000Z",
    last_heartbeat_at: "2026-01-01T00:00:00.000Z",
  };
}

export const queued = (position = 0): JobEvent => ({ type: "queued", job_id: JOB, position });
export const started: JobEvent = { type: "started", job_id: JOB, attempt: 1, worker_id: "w1", model: "demo" };
export const token = (t: string, i = 0): JobEvent => ({ type: "token", t, i, ids: [i] });
export const end: JobEvent = {
  type: "end",
  stop_reason: "EOS",
  tokens_in: 3,
  tokens_out: 2,
  tokens_cached: 0,
  timings: { prefill_ms: 10, decode_ms: 100 },
};
export const failed = (code: string): JobEvent => ({ type: "error", code, message: `It failed: ${code}.`, retriable: false });
