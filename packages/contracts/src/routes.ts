/** The two route tables, everything the orchestrator and the worker answer to; and who may call which of the orchestrator's. */
import { z } from "zod";
import { PoolAct } from "./act.ts";
import { AnthropicMessage, AnthropicTokens, CountTokensRequest, MessagesRequest } from "./anthropic.ts";
import { batchRoutes } from "./batch-routes.ts";
import {
  Embed,
  EmbeddingList,
  EmbeddingsRequest,
  EmbedHeaders,
  OllamaEmbedAnswer,
  OllamaEmbeddingsAnswer,
  OllamaEmbeddingsRequest,
  OllamaEmbedRequest,
} from "./embed.ts";
import { Consent, ConsentList, ExportSubject, RecordConsent, SubjectErased, SubjectExport, SubjectRef } from "./gdpr.ts";
import { Accepted, Explanation, JobList, JobSummary, JobView, ListJobs, Replay, SubmitJob } from "./job.ts";
import { Expelled, InviteWorker, JoinToken } from "./join.ts";
import { CreateKey, KeyList, KeyView, NewKey, type Role, RotateKey, SetKey } from "./key.ts";
import {
  OllamaChatAnswer,
  OllamaChatRequest,
  OllamaGenerateAnswer,
  OllamaGenerateRequest,
  OllamaRunning,
  OllamaShow,
  OllamaShowRequest,
  OllamaTags,
  OllamaVersion,
} from "./ollama.ts";
import { ChatCompletion, ChatRequest, CompletionRequest, JobHeaders, OpenaiModel, OpenaiModelList, TextCompletion } from "./openai.ts";
import { PolicyView } from "./policy.ts";
import { OpenaiResponse, ResponsesRequest } from "./responses.ts";
import type { RouteTable } from "./route.ts";
import { CreateTenant, SetTenant, TenantList, TenantView } from "./tenant.ts";
import { Counted, Tokenize, Tokenized, TokenizeRequest } from "./tokenize.ts";
import {
  Beat,
  CancelAttempt,
  Execute,
  ModelList,
  Registered,
  RegisterHeaders,
  RegisterWorker,
  WorkerHealth,
  WorkerList,
  WorkerView,
} from "./worker.ts";

export const OrcdHealth = z
  .object({
    status: z.literal("OK"),
    version: z.string(),
    uptime_seconds: z.number(),
    workers: z.int(),
    queue_depth: z.int(),
    keys_required: z.boolean().default(false).describe("Whether every other request needs a key"),
  })
  .meta({ id: "Health" });

/** `DELETE /v2/tasks/{id}` and its twin for clients that can't send DELETE. */
const cancelReplies = { 202: [JobSummary], 200: [JobSummary] } as const;

export const orcdRoutes = {
  health: { method: "GET", path: "/health", summary: "Liveness; JSON when asked for", replies: { 200: ["text", OrcdHealth] } },
  root: {
    method: "GET",
    path: "/",
    summary: "Says that the orchestrator runs; Ollama's command line asks first",
    replies: { 200: ["text"] },
  },
  submitJob: {
    method: "POST",
    path: "/v2/tasks",
    summary: "Submit a job; with stream:true or Accept: text/event-stream the answer is its event stream",
    body: SubmitJob,
    replies: { 202: [Accepted], 200: ["events"] },
  },
  listJobs: { method: "GET", path: "/v2/tasks", summary: "Jobs, newest first", query: ListJobs, replies: { 200: [JobList] } },
  showJob: { method: "GET", path: "/v2/tasks/{id}", summary: "One job", replies: { 200: [JobView] } },
  followJob: {
    method: "GET",
    path: "/v2/tasks/{id}/events",
    summary: "The job's events: replay after Last-Event-ID, then live",
    replies: { 200: ["events"] },
  },
  explainJob: {
    method: "GET",
    path: "/v2/tasks/{id}/explain",
    summary: "Why the job runs where it does, or what it waits for",
    replies: { 200: [Explanation] },
  },
  deleteJob: { method: "DELETE", path: "/v2/tasks/{id}", summary: "Cancel; idempotent", replies: cancelReplies },
  cancelJob: { method: "POST", path: "/v2/tasks/{id}/cancel", summary: "Cancel; idempotent", replies: cancelReplies },
  replayJob: {
    method: "POST",
    path: "/v2/tasks/{id}/replay",
    summary: "Run a job again with the same model, engine, seed and parameters; refused where that can't be",
    replies: { 202: [Replay] },
  },
  registerWorker: {
    method: "POST",
    path: "/workers/register",
    summary: "A worker joins, or joins again; it is called back at the address it gives, 502 if that fails",
    headers: RegisterHeaders,
    body: RegisterWorker,
    replies: { 200: ["text", Registered] },
  },
  beat: {
    method: "POST",
    path: "/workers/{id}/heartbeat",
    summary: "A worker says how it is; 404: register again, 409: an older life",
    body: Beat,
    replies: { 200: [z.object({ status: z.literal("OK") })] },
  },
  removeWorker: {
    method: "DELETE",
    path: "/workers/{id}",
    summary: "The worker leaves; with its epoch, so that an old life's goodbye does not send a newer one away",
    query: z.strictObject({ epoch: z.coerce.number().int().nonnegative().optional() }),
    replies: { 204: ["none"] },
  },
  listWorkers: { method: "GET", path: "/v2/workers", summary: "The registry", replies: { 200: [WorkerList] } },
  drainWorker: {
    method: "POST",
    path: "/v2/workers/{id}/drain",
    summary: "No new work for this worker; what runs there finishes, or with move=true goes on elsewhere where it can",
    query: z.strictObject({ move: z.enum(["true", "false"]).optional() }),
    replies: { 202: [WorkerView] },
  },
  inviteWorker: {
    method: "POST",
    path: "/v2/join-tokens",
    summary: "A token with which one worker may register, once and soon; this answer is the only one that shows it",
    body: InviteWorker,
    replies: { 201: [JoinToken] },
  },
  expelWorker: {
    method: "DELETE",
    path: "/v2/workers/{id}",
    summary: "The worker leaves at once, and its credential ends: it can't register again without a new join token",
    replies: { 200: [Expelled] },
  },
  listModels: { method: "GET", path: "/v2/models", summary: "Every model some worker serves or has served", replies: { 200: [ModelList] } },
  openaiModels: {
    method: "GET",
    path: "/v1/models",
    summary: "OpenAI: the models that jobs are accepted for",
    replies: { 200: [OpenaiModelList] },
  },
  openaiModel: { method: "GET", path: "/v1/models/{id}", summary: "OpenAI: one model", replies: { 200: [OpenaiModel] } },
  openaiChat: {
    method: "POST",
    path: "/v1/chat/completions",
    summary: "OpenAI: the next message of a conversation; with stream:true in chunks",
    headers: JobHeaders,
    body: ChatRequest,
    replies: { 200: [ChatCompletion, "events"] },
  },
  openaiCompletion: {
    method: "POST",
    path: "/v1/completions",
    summary: "OpenAI: a text goes on; with stream:true in chunks",
    headers: JobHeaders,
    body: CompletionRequest,
    replies: { 200: [TextCompletion, "events"] },
  },
  openaiEmbeddings: {
    method: "POST",
    path: "/v1/embeddings",
    summary: "OpenAI: the vectors of texts",
    headers: EmbedHeaders,
    body: EmbeddingsRequest,
    replies: { 200: [EmbeddingList] },
  },
  ...batchRoutes,
  openaiResponse: {
    method: "POST",
    path: "/v1/responses",
    summary: "OpenAI: an answer to an input, of which nothing is kept; with stream:true in events",
    headers: JobHeaders,
    body: ResponsesRequest,
    replies: { 200: [OpenaiResponse, "events"] },
  },
  anthropicMessages: {
    method: "POST",
    path: "/v1/messages",
    summary: "Anthropic: the next message of a conversation; with stream:true in events",
    headers: JobHeaders,
    body: MessagesRequest,
    replies: { 200: [AnthropicMessage, "events"] },
    error_form: "anthropic",
  },
  anthropicCountTokens: {
    method: "POST",
    path: "/v1/messages/count_tokens",
    summary: "Anthropic: how many tokens a conversation has, counted by a worker",
    body: CountTokensRequest,
    replies: { 200: [AnthropicTokens] },
    error_form: "anthropic",
  },
  tokenize: {
    method: "POST",
    path: "/v2/tokenize",
    summary: "The tokens of a prompt, counted by a worker that holds the model, with its own template and tokenizer",
    body: TokenizeRequest,
    replies: { 200: [Tokenized] },
  },
  listKeys: { method: "GET", path: "/v2/keys", summary: "API keys, newest first; never their secrets", replies: { 200: [KeyList] } },
  createKey: {
    method: "POST",
    path: "/v2/keys",
    summary: "Make an API key; this answer is the only one that shows it",
    body: CreateKey,
    replies: { 201: [NewKey] },
  },
  rotateKey: {
    method: "POST",
    path: "/v2/keys/{id}/rotate",
    summary: "A new key of the same name and roles in place of this one, which ends now or after an overlap",
    body: RotateKey,
    replies: { 201: [NewKey] },
  },
  setKey: { method: "POST", path: "/v2/keys/{id}", summary: "Change a key's limits", body: SetKey, replies: { 200: [KeyView] } },
  revokeKey: { method: "DELETE", path: "/v2/keys/{id}", summary: "End a key at once; idempotent", replies: { 200: [KeyView] } },
  listTenants: { method: "GET", path: "/v2/tenants", summary: "Tenants, by name", replies: { 200: [TenantList] } },
  createTenant: {
    method: "POST",
    path: "/v2/tenants",
    summary: "Make a tenant; keys are made for it with POST /v2/keys",
    body: CreateTenant,
    replies: { 201: [TenantView] },
  },
  showTenant: { method: "GET", path: "/v2/tenants/{id}", summary: "One tenant, by its name", replies: { 200: [TenantView] } },
  setTenant: {
    method: "POST",
    path: "/v2/tenants/{id}",
    summary: "Change what the body names; the rest stays as it is",
    body: SetTenant,
    replies: { 200: [TenantView] },
  },
  deleteTenant: {
    method: "DELETE",
    path: "/v2/tenants/{id}",
    summary: "End a tenant that has no key that works; its jobs stay in the record, and its name is not given again",
    replies: { 204: ["none"] },
  },
  recordAct: {
    method: "POST",
    path: "/v2/acts",
    summary: "What an operator is about to do on a pool's machine, or has done: for the audit trail",
    body: PoolAct,
    replies: { 204: ["none"] },
  },
  exportSubject: {
    method: "POST",
    path: "/v2/gdpr/export",
    summary: "Everything that is kept of a subject: its jobs with prompts and answers, what it consented to",
    body: ExportSubject,
    replies: { 200: [SubjectExport] },
  },
  eraseSubject: {
    method: "POST",
    path: "/v2/gdpr/erase",
    summary: "Cancel a subject's jobs, destroy the key of its prompts and answers; rows and audit entries stay, without its name",
    body: SubjectRef,
    replies: { 200: [SubjectErased] },
  },
  recordConsent: {
    method: "POST",
    path: "/v2/gdpr/consents",
    summary: "A subject has given or withdrawn its consent; kept in the audit trail too",
    body: RecordConsent,
    replies: { 201: [Consent] },
  },
  listConsents: {
    method: "GET",
    path: "/v2/gdpr/consents",
    summary: "What a subject consented to, oldest first; the last of a purpose is what holds",
    query: SubjectRef,
    replies: { 200: [ConsentList] },
  },
  showPolicy: { method: "GET", path: "/v2/policy", summary: "The rules in force", replies: { 200: [PolicyView] } },
  reloadPolicy: {
    method: "POST",
    path: "/v2/policy/reload",
    summary: "Load the file of rules again; when it is not valid, those in force stay",
    replies: { 200: [PolicyView] },
  },
  ollamaVersion: {
    method: "GET",
    path: "/api/version",
    summary: "Ollama: the version whose API this is",
    replies: { 200: [OllamaVersion] },
    error_form: "ollama",
  },
  ollamaTags: {
    method: "GET",
    path: "/api/tags",
    summary: "Ollama: the models that jobs are accepted for",
    replies: { 200: [OllamaTags] },
    error_form: "ollama",
  },
  ollamaRunning: {
    method: "GET",
    path: "/api/ps",
    summary: "Ollama: the models that workers serve now",
    replies: { 200: [OllamaRunning] },
    error_form: "ollama",
  },
  ollamaShow: {
    method: "POST",
    path: "/api/show",
    summary: "Ollama: one model",
    body: OllamaShowRequest,
    replies: { 200: [OllamaShow] },
    error_form: "ollama",
  },
  ollamaChat: {
    method: "POST",
    path: "/api/chat",
    summary: "Ollama: the next message of a conversation; in lines, unless stream is false",
    headers: JobHeaders,
    body: OllamaChatRequest,
    replies: { 200: [OllamaChatAnswer, "lines"] },
    error_form: "ollama",
  },
  ollamaGenerate: {
    method: "POST",
    path: "/api/generate",
    summary: "Ollama: an answer to a prompt; in lines, unless stream is false",
    headers: JobHeaders,
    body: OllamaGenerateRequest,
    replies: { 200: [OllamaGenerateAnswer, "lines"] },
    error_form: "ollama",
  },
  ollamaEmbed: {
    method: "POST",
    path: "/api/embed",
    summary: "Ollama: the vectors of texts",
    headers: EmbedHeaders,
    body: OllamaEmbedRequest,
    replies: { 200: [OllamaEmbedAnswer] },
    error_form: "ollama",
  },
  ollamaEmbeddings: {
    method: "POST",
    path: "/api/embeddings",
    summary: "Ollama, the older form: the vector of one text",
    headers: EmbedHeaders,
    body: OllamaEmbeddingsRequest,
    replies: { 200: [OllamaEmbeddingsAnswer] },
    error_form: "ollama",
  },
  metrics: { method: "GET", path: "/metrics", summary: "Prometheus text", replies: { 200: ["text"] } },
  openapi: { method: "GET", path: "/openapi.json", summary: "This description", replies: { 200: [z.unknown()] } },
} as const satisfies RouteTable;

/** What a worker shows is no key and has no roles: a join token, or the credential of one that has joined. */
export type Caller = Role | "worker";
/** Whom a route answers: everybody, or a key with at least one of these roles, or a worker. */
export type Access = "everybody" | readonly Caller[];

const SUBMIT = ["submit", "operate"] as const;
const READ = ["submit", "observe", "operate"] as const;
const OBSERVE = ["observe", "operate"] as const;
const OPERATE = ["operate"] as const;
/** Of the content of others, for those whom it concerns. */
const DISCLOSE = ["audit", "operate"] as const;
const WORKER = ["worker"] as const;

/** A route that is not in this table does not compile, so that none is open because somebody forgot. */
export const orcdAccess: Readonly<Record<keyof typeof orcdRoutes, Access>> = {
  root: READ,
  health: "everybody",
  submitJob: SUBMIT,
  listJobs: READ,
  showJob: READ,
  followJob: READ,
  explainJob: READ,
  deleteJob: SUBMIT,
  cancelJob: SUBMIT,
  replayJob: SUBMIT,
  registerWorker: WORKER,
  beat: WORKER,
  removeWorker: ["worker", "operate"],
  listWorkers: OBSERVE,
  drainWorker: OPERATE,
  inviteWorker: OPERATE,
  expelWorker: OPERATE,
  listModels: READ,
  openaiModels: READ,
  openaiModel: READ,
  openaiChat: SUBMIT,
  openaiCompletion: SUBMIT,
  openaiEmbeddings: SUBMIT,
  createFile: SUBMIT,
  listFiles: READ,
  showFile: READ,
  fileContent: READ,
  deleteFile: SUBMIT,
  createBatch: SUBMIT,
  listBatches: READ,
  showBatch: READ,
  cancelBatch: SUBMIT,
  openaiResponse: SUBMIT,
  anthropicMessages: SUBMIT,
  anthropicCountTokens: SUBMIT,
  tokenize: SUBMIT,
  ollamaVersion: READ,
  ollamaTags: READ,
  ollamaRunning: READ,
  ollamaShow: READ,
  ollamaChat: SUBMIT,
  ollamaGenerate: SUBMIT,
  ollamaEmbed: SUBMIT,
  ollamaEmbeddings: SUBMIT,
  listKeys: OPERATE,
  createKey: OPERATE,
  rotateKey: OPERATE,
  setKey: OPERATE,
  revokeKey: OPERATE,
  listTenants: OPERATE,
  createTenant: OPERATE,
  showTenant: OPERATE,
  setTenant: OPERATE,
  deleteTenant: OPERATE,
  recordAct: OPERATE,
  exportSubject: DISCLOSE,
  eraseSubject: OPERATE,
  recordConsent: SUBMIT,
  listConsents: DISCLOSE,
  showPolicy: ["observe", "operate", "audit"],
  reloadPolicy: OPERATE,
  metrics: OBSERVE,
  openapi: ["submit", "observe", "operate", "audit"],
};

export const workerdRoutes = {
  execute: {
    method: "POST",
    path: "/execute",
    summary: "One attempt at a job; the connection is the attempt",
    body: Execute,
    replies: { 200: ["events"] },
  },
  embed: {
    method: "POST",
    path: "/embed",
    summary: "One attempt at an embedding job; the connection is the attempt",
    body: Embed,
    replies: { 200: ["events"] },
  },
  tokenize: {
    method: "POST",
    path: "/tokenize",
    summary: "The tokens of a prompt, of which nothing is made; takes no slot",
    body: Tokenize,
    replies: { 200: [Counted] },
  },
  cancel: {
    method: "POST",
    path: "/cancel",
    summary: "Cancel an attempt; idempotent",
    body: CancelAttempt,
    replies: { 202: [z.object({ cancelled: z.boolean() })] },
  },
  health: { method: "GET", path: "/health", summary: "How the worker is", replies: { 200: [WorkerHealth] } },
  metrics: { method: "GET", path: "/metrics", summary: "Prometheus text", replies: { 200: ["text"] } },
  shutdown: {
    method: "POST",
    path: "/shutdown",
    summary: "Drain, then exit 0",
    replies: { 202: [z.object({ status: z.literal("draining") })] },
  },
} as const satisfies RouteTable;
