/** Jobs, workers and models of an orchestrator, as people read them. Prompts are never shown. */
import type { Explanation, JobList, JobSummary, JobView } from "@rbees/contracts/job";
import { FEATURES } from "@rbees/contracts/sets";
import type { ModelList, WorkerList, WorkerView } from "@rbees/contracts/worker";
import type { z } from "zod";
import { age, ageOf, duration, type Look, plural, rate, size } from "../look.ts";
import { ofOtherVersions } from "../other-versions.ts";
import { facts, table } from "./table.ts";

export function renderJobs(list: JobList, look: Look, now = Date.now()): string {
  return table(
    list.tasks,
    [
      { title: "JOB", of: (job) => job.job_id, name: true },
      { title: "STATUS", of: statusOf },
      { title: "MODEL", of: (job) => job.model, spare: 2 },
      { title: "WORKER", of: (job) => job.worker_id ?? "–" },
      { title: "AGE", of: (job) => ageOf(job.submitted_at, now), right: true, spare: 1 },
      { title: "TOKENS", of: (job) => String(job.usage?.tokens_out ?? "–"), right: true, spare: 3 },
    ],
    look,
    "No jobs.",
  );
}

function statusOf(job: JobSummary): string {
  if (job.status === "queued" && job.queue_position !== null) return `queued, ${job.queue_position} ahead`;
  return job.error === null || job.status === "cancelled" ? job.status : `${job.status} (${job.error.code})`;
}

export function renderJob(job: JobView, look: Look, now = Date.now()): string {
  const known = facts(
    [
      ["job", job.job_id],
      ["status", statusOf(job)],
      ["why", job.error?.message],
      ["model", job.model],
      ["worker", job.worker_id],
      ["priority", job.priority],
      ["submitted", `${job.submitted_at} (${ageOf(job.submitted_at, now)} ago)`],
      ["first token", span(job.submitted_at, job.first_token_at)],
      ["ended", span(job.submitted_at, job.ended_at)],
      ["stopped by", job.stop_reason],
      ["tokens", job.usage === null ? null : `${job.usage.tokens_in} in (${job.usage.tokens_cached} cached), ${job.usage.tokens_out} out`],
      [
        "speed",
        job.usage === null || !job.timings?.decode_ms ? null : `${rate((1000 * job.usage.tokens_out) / job.timings.decode_ms)} tokens/s`,
      ],
      [
        "attempts",
        job.attempts.map(({ attempt, worker_id, outcome }) => `${attempt} on ${worker_id}: ${outcome ?? "running"}`).join("; ") || null,
      ],
      ["seed", String(job.seed)],
      [
        "metadata",
        Object.entries(job.metadata)
          .map((pair) => pair.join("="))
          .join(" ") || null,
      ],
      ["correlation", job.correlation_id],
      ["text", job.content === "kept" ? null : CONTENT_GONE[job.content]],
    ],
    look,
  );
  const thought = job.reasoning === undefined ? "" : look.dim(look.safe(job.reasoning));
  const calls = (job.tool_calls ?? []).map(({ function: { name, arguments: given } }) => look.safe(`calls ${name} ${given}`));
  const said = [thought, look.safe(job.text), ...calls]
    .filter((part) => part !== "")
    .map((part) => (part.endsWith("\n") ? part : `${part}\n`));
  return said.length === 0 ? known : `${known}\n${said.join("")}`;
}

const CONTENT_GONE: Record<Exclude<JobView["content"], "kept">, string> = {
  expired: "not kept any more: its time was over",
  erased: "erased with its subject",
  unreadable: "can't be read: its key is not with this orchestrator",
};

function span(from: string, to: string | null): string | null {
  return to === null ? null : `after ${duration(Math.max(0, Date.parse(to) - Date.parse(from)))}`;
}

export function renderExplanation(why: Explanation, look: Look): string {
  const rules = why.rules.length === 0 ? "" : `Rules that held: ${why.rules.map((name) => look.safe(name)).join(", ")}.\n`;
  if (why.workers.length === 0) return `${look.safe(why.answer)}\n${rules}`;
  const verdicts = table(
    why.workers,
    [
      { title: "WORKER", of: (row) => row.worker_id, name: true },
      { title: "VERDICT", of: (row) => row.verdict },
      { title: "SCORE", of: (row) => (row.score === null ? "–" : String(Number(row.score.toPrecision(4)))), right: true },
      { title: "CACHED", of: (row) => (row.cached_tokens === null ? "–" : plural(row.cached_tokens, "token")), right: true },
      { title: "REASON", of: (row) => row.reason },
    ],
    look,
    "",
  );
  return `${look.safe(why.answer)}\n${rules}\n${verdicts}`;
}

export function renderWorkers(list: WorkerList, look: Look, now = Date.now()): string {
  const mixed = ofOtherVersions(list).length > 0;
  const shown = table(
    list.workers,
    [
      { title: "WORKER", of: (worker) => worker.worker_id, name: true },
      { title: "STATUS", of: (worker) => worker.status },
      { title: "MODEL", of: (worker) => worker.model },
      { title: "ADDRESS", of: (worker) => worker.address, spare: 2 },
      { title: "BACKEND", of: (worker) => worker.backend, spare: 5 },
      ...(mixed ? [{ title: "VERSION", of: ({ version }: WorkerView) => version || "–" }] : []),
      { title: "JOBS", of: (worker) => `${worker.jobs_running}/${worker.slots}`, right: true },
      { title: "TOKENS/S", of: (worker) => rate(worker.tokens_per_second), right: true, spare: 3 },
      { title: "MEMORY", of: (worker) => size(worker.memory_bytes), right: true, spare: 4 },
      { title: "SEEN", of: (worker) => `${age((now - Date.parse(worker.last_heartbeat_at)) / 1000)} ago`, right: true, spare: 1 },
      // Last, because it may be long.
      { title: "CAN", of: (worker) => abilities(worker.features), spare: 6 },
    ],
    look,
    "No workers. Start one with: rbees-pool worker spawn cpu --model demo",
  );
  return mixed ? `${shown}The orchestrator is of version ${look.safe(list.orchestrator_version ?? "")}.\n` : shown;
}

const LEFT_OUT_MAX = 3;

/** In the fewest words: all of them, all but some, or these. Adapters that a worker holds are named in any case. */
function abilities(features: readonly string[]): string {
  const missing = FEATURES.filter((feature) => !features.includes(feature));
  const more = features.filter((feature) => !FEATURES.some((known) => known === feature));
  if (missing.length > LEFT_OUT_MAX) return features.join(", ") || "–";
  const known = missing.length === 0 ? "all" : `all but ${missing.join(", ")}`;
  return more.length === 0 ? known : `${known}; ${more.join(", ")}`;
}

export function renderModels(list: z.infer<typeof ModelList>, look: Look): string {
  return table(
    list.models,
    [
      { title: "MODEL", of: (model) => model.model, name: true },
      { title: "WORKERS", of: (model) => (model.workers.length === 0 ? "none now" : model.workers.join(", ")) },
      { title: "CONTEXT", of: (model) => (model.context_size === null ? "–" : plural(model.context_size, "token")), right: true, spare: 1 },
      { title: "DIGEST", of: (model) => model.digest?.replace(/^.*:/, "").slice(0, 12) ?? "–", spare: 2 },
    ],
    look,
    "No models. A worker brings its model: rbees-pool worker spawn cpu --model demo",
  );
}

export function cancelSentence(job: JobSummary): string {
  if (job.status === "cancelled" || job.status === "queued" || job.status === "running") return `Job ${job.job_id} is cancelled.`;
  return `Job ${job.job_id} had already ended: ${job.status}.`;
}
