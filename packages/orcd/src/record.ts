/**
 * What is written down for each decision: the rows and the audit entry that become durable in one transaction, before the
 * decision is carried out. Prompts and answers enter the job's row; the audit trail gets only their hashes and lengths.
 */
import { hash } from "node:crypto";
import type { Decision } from "@rbees/core/events";
import type { AuditValue } from "@rbees/kit/audit-chain";
import { type ActiveJob, kindOf, saidSoFar } from "./active-job.ts";
import { saidOf } from "./limits.ts";
import { hasProgress } from "./progress.ts";
import { exactText } from "./prompt.ts";
import type { Change } from "./store/port.ts";
import { subjectOf } from "./subject.ts";

type Fields = { readonly [key: string]: AuditValue };

export interface RecordContext {
  readonly now_ms: number;
  /** The key whose request the event is; undefined when it is of no request, or nobody was asked. */
  readonly who?: string | undefined;
  /** How the attempt that the event is about ended, if it is about one's end. */
  readonly ended?: { job_id: string; outcome: string } | undefined;
}

/** Everything that is written down for the decisions of one event. */
export function changesOf(decisions: readonly Decision[], jobOf: (id: string) => ActiveJob | undefined, context: RecordContext): Change[] {
  return folded(decisions.flatMap((decision) => changesFor(decision, "job_id" in decision ? jobOf(decision.job_id) : undefined, context)));
}

/** A job that is accepted and dispatched by one event is written once: what follows its insert goes into it. */
function folded(changes: Change[]): Change[] {
  const [first] = changes;
  if (first?.table !== "jobs" || !("insert" in first)) return changes;
  let row = first.insert;
  const others = changes.slice(1).filter((change) => {
    if (change.table !== "jobs" || !("update" in change) || change.id !== row.id) return true;
    row = { ...row, ...change.update };
    return false;
  });
  return [{ ...first, insert: row }, ...others];
}

/** An entry of the audit trail; says `who` where that is known. */
export function auditChange(kind: string, fields: Fields, { now_ms, who }: Pick<RecordContext, "now_ms" | "who">): Change {
  return { table: "audit", append: { at_ms: now_ms, kind, fields: who === undefined ? fields : { ...fields, who } } };
}

/** The changes for one decision about a job or worker. `job` is undefined for decisions that concern none. */
function changesFor(decision: Decision, job: ActiveJob | undefined, { now_ms, who, ended }: RecordContext): Change[] {
  const audit = (kind: string, fields: Fields): Change => auditChange(kind, fields, { now_ms, who });
  const attemptOver = (job_id: string, unless_reported: string): Change => {
    const outcome = ended?.job_id === job_id ? ended.outcome : unless_reported;
    return { table: "attempts", job_id, over: { ended_at_ms: now_ms, outcome } };
  };
  switch (decision.type) {
    case "accept":
      return job === undefined ? [] : [jobRow(job), ofSubject(job, audit("job.accepted", { ...ids(job), ...request(job) }))];
    case "refuse":
      return job === undefined
        ? []
        : [
            audit("job.refused", {
              ...ids(job),
              code: decision.code,
              ...(decision.limit === undefined ? {} : { limit: decision.limit }),
              ...(decision.rule === undefined ? {} : { rule: decision.rule }),
              ...request(job),
            }),
          ];
    case "dispatch": {
      const { job_id, attempt, worker_id, routing } = decision;
      return [
        { table: "jobs", id: job_id, update: { status: "running", attempt, worker_id, started_at_ms: now_ms } },
        audit("job.dispatched", { job_id, ...ofTenant(job), attempt, worker_id, ...ruled(routing.rules) }),
      ];
    }
    case "requeue": {
      const { job_id, attempt, spent, reason } = decision;
      return [
        attemptOver(job_id, "lost"),
        { table: "jobs", id: job_id, update: { status: "queued", worker_id: null, spent } },
        audit("job.requeued", { job_id, ...ofTenant(job), attempt, reason }),
      ];
    }
    case "settle":
      if (job === undefined) return [];
      return [...(decision.status === "succeeded" ? [] : [attemptOver(job.id, "aborted")]), ...settled(decision, job, now_ms, audit)];
    case "worker.join":
      if (decision.again) return [];
      return [
        { table: "models", insert: { model: decision.model, first_seen_at_ms: now_ms } },
        audit("worker.joined", { worker_id: decision.worker_id, epoch: decision.epoch, model: decision.model }),
      ];
    case "worker.drain":
      return [audit("worker.draining", { worker_id: decision.worker_id })];
    case "worker.resume":
      return [audit("worker.resumed", { worker_id: decision.worker_id })];
    case "worker.leave":
      return [audit("worker.left", { worker_id: decision.worker_id, reason: decision.reason })];
    case "spawn": {
      const { model, pool_id, device_id } = decision;
      return [audit("worker.requested", { model, pool_id, device_id })];
    }
    case "evict":
      return [audit("worker.evicted", { worker_id: decision.worker_id, pool_id: decision.pool_id, reason: decision.reason })];
    case "abort":
    // Its entry is written when a worker is asked.
    case "count":
    case "worker.reject":
      return [];
  }
}

function ids(job: ActiveJob): Fields {
  return { job_id: job.id, correlation_id: job.correlation_id, tenant: job.tenant };
}

function ofTenant(job: ActiveJob | undefined): Fields {
  return job === undefined ? {} : { tenant: job.tenant };
}

/** The names of rules; nothing where none holds. */
function ruled(rules: readonly string[]): Fields {
  return rules.length === 0 ? {} : { rules: [...rules] };
}

function request({ request: asked, rules, content_keep_ms }: ActiveJob): Fields {
  const ruling = { ...ruled(rules), ...(content_keep_ms === undefined ? {} : { content_keep_ms }) };
  const { model, priority, max_tokens, seed, temperature, top_p, top_k, min_p, raw, lora, replay_of, inputs } = asked;
  if (inputs !== undefined) {
    return { ...ruling, job_kind: kindOf(asked), model, priority, inputs: inputs.length, ...promptDigest(exactText(asked)) };
  }
  const { frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n, logprobs, reasoning_effort } = asked;
  const drawn = { top_p, top_k, min_p, frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n, logprobs };
  const sampling = saidOf({ ...drawn, raw: raw || undefined, lora, reasoning_effort, replay_of });
  const parameters = { ...ruling, model, priority, max_tokens, seed, temperature: String(temperature), ...sampling, ...constraints(asked) };
  return { ...parameters, ...promptDigest(exactText(asked)) };
}

const NOTHING: Fields = {};

/** What an answer was held to, or ended by: it may be long, or say of whom the job is, so its hash stands for it. */
function constraints({ stop, logit_bias, json_schema, grammar }: ActiveJob["request"]): Fields {
  if (stop.length === 0 && logit_bias === undefined && json_schema === undefined && grammar === undefined) return NOTHING;
  const given = Object.entries({ stop: stop.length === 0 ? undefined : stop, logit_bias, json_schema, grammar });
  return Object.fromEntries(
    given.flatMap(([name, value]) => (value === undefined ? [] : [[`${name}_sha256`, hash("sha256", JSON.stringify(value), "hex")]])),
  );
}

/** An entry about a job that names a subject says which one, by an id that nobody but the store can tell from whom it is. */
function ofSubject({ tenant, request: { metadata } }: ActiveJob, change: Change): Change {
  const name = subjectOf(metadata);
  return name === null ? change : ({ ...change, subject: { tenant, name } } as Change);
}

/** How a text stands in the trail: its hash and its length. Spelled out, since objects with computed names are made slowly. */
export function promptDigest(text: string): Fields {
  return { prompt_sha256: hash("sha256", text, "hex"), prompt_bytes: Buffer.byteLength(text, "utf8") };
}

function answerDigest(text: string): Fields {
  return { answer_sha256: hash("sha256", text, "hex"), answer_bytes: Buffer.byteLength(text, "utf8") };
}

function jobRow(job: ActiveJob): Change {
  const { request: asked } = job;
  return {
    table: "jobs",
    insert: {
      id: job.id,
      tenant: job.tenant,
      key_id: job.key_id,
      status: "queued",
      ...(asked.inputs === undefined ? {} : { kind: kindOf(asked) }),
      model: asked.model,
      priority: asked.priority,
      request: JSON.stringify(asked),
      seed: asked.seed,
      ...(job.content_keep_ms === undefined ? {} : { content_keep_ms: job.content_keep_ms }),
      correlation_id: job.correlation_id,
      lives: job.lives,
      submitted_at_ms: job.submitted_at_ms,
    },
    subject: subjectOf(asked.metadata),
  };
}

function settled(
  decision: Extract<Decision, { type: "settle" }>,
  job: ActiveJob,
  now_ms: number,
  audit: (kind: string, fields: Fields) => Change,
): Change[] {
  const { status, code = null, message = null, retriable, used } = decision;
  const { text, logprobs, ...more } = saidSoFar(job);
  // How likely it was is no part of the answer.
  const answer = Object.keys(more).length === 0 ? text : JSON.stringify([text, more]);
  const said = answer === text && logprobs === undefined ? null : JSON.stringify(logprobs === undefined ? more : { ...more, logprobs });
  const { end } = job;
  const ran_with = { model_digest: job.ran_with?.model_digest ?? null, engine: job.ran_with?.engine ?? null };
  const usage = { tokens_in: end?.tokens_in ?? null, tokens_out: end?.tokens_out ?? null, tokens_cached: end?.tokens_cached ?? null };
  return [
    {
      table: "jobs",
      id: job.id,
      update: {
        status,
        ended_at_ms: now_ms,
        first_token_at_ms: job.first_token_at_ms,
        text,
        said,
        stop_reason: end?.stop_reason ?? null,
        ...usage,
        ...ran_with,
        prefill_ms: end?.timings.prefill_ms ?? null,
        decode_ms: end?.timings.decode_ms ?? null,
        error_code: code,
        error_message: message,
        error_retriable: retriable === undefined ? null : Number(retriable),
      },
    },
    ...(used === undefined ? [] : [{ table: "usage", add: { level: "tenant", id: job.tenant, ...used } } as const]),
    ...(used === undefined || job.key_id === null ? [] : [{ table: "usage", add: { level: "key", id: job.key_id, ...used } } as const]),
    ...(hasProgress(job) ? [{ table: "progress", job_id: job.id, gone: true } as const] : []),
    audit(status === "cancelled" ? "job.cancelled" : "job.ended", {
      ...ids(job),
      status,
      code,
      attempts: job.attempt,
      stop_reason: end?.stop_reason ?? null,
      ...usage,
      ...ran_with,
      ...answerDigest(job.request.inputs !== undefined ? job.vectors.join() : answer),
    }),
  ];
}
