/** Running an ended job again: with what it asked, on the same model and the same engine, or not at all. */
import { RbeesError } from "@rbees/contracts/errors";
import type { RegisterWorker } from "@rbees/contracts/worker";
import type { AskedJob, JobRequest } from "./active-job.ts";
import { buildDigest } from "./model-build.ts";
import type { JobTable } from "./store/schema.ts";

export interface Replay {
  readonly request: AskedJob;
  readonly worker_id: string;
  readonly model_digest: string;
  readonly engine: string;
  /** Whether other jobs beside it can't change its text. */
  readonly deterministic: boolean;
}

const GONE_BECAUSE: Record<Exclude<JobTable["content"], "clear" | "kept">, string> = {
  expired: "their time was over",
  erased: "their subject was erased",
  unreadable: "their key is not with this orchestrator",
};

/** `serving`: the workers that have the job's model now. Throws why it can't be run again as it was. */
export function replayOf(job: JobTable, serving: readonly RegisterWorker[]): Replay {
  const { id, kind, status, content, model_digest, engine } = job;
  if (kind !== "generate") throw new RbeesError("CONFLICT", `Job ${id} made vectors: it has no text to compare with.`);
  if (status !== "succeeded")
    throw new RbeesError("CONFLICT", `Job ${id} has no whole answer to compare with: it is ${status}. Replay one that has succeeded.`);
  if (content !== "kept" && content !== "clear")
    throw new RbeesError("GONE", `Prompt and answer of job ${id} are not kept any more: ${GONE_BECAUSE[content]}. It can't be run again.`);
  if (model_digest === null || engine === null)
    throw new RbeesError(
      "CONFLICT",
      `With which build of the model and of the engine job ${id} ran is not recorded: its worker did not say. Jobs of present workers can be replayed.`,
    );
  const { openai: _, deadline_ms: __, ...asked } = JSON.parse(job.request) as JobRequest;
  const same = serving.filter((worker) => buildDigest(worker, asked.lora) === model_digest && worker.engine === engine);
  const worker = same.find((each) => each.id === job.worker_id) ?? same[0];
  if (worker === undefined) throw noSuchWorker(job, serving, asked.lora);
  const request = { ...asked, stream: false, on_disconnect: "continue", placement: pinned(worker.id), replay_of: id } as const;
  return { request, worker_id: worker.id, model_digest, engine, deterministic: worker.deterministic === true };
}

function pinned(worker_id: string): NonNullable<AskedJob["placement"]> {
  return { pin: worker_id, prefer: [], avoid: [], labels: {} };
}

function noSuchWorker({ model, model_digest, engine }: JobTable, serving: readonly RegisterWorker[], lora: string | undefined): RbeesError {
  const there = serving.map((worker) => {
    const [has, computes] = [
      buildDigest(worker, lora) ?? "a model that it does not tell",
      worker.engine ?? "an engine that it does not tell",
    ];
    return `${worker.id} has ${has} on ${computes}`;
  });
  const now = there.length === 0 ? "none serves it" : there.join("; ");
  return new RbeesError("NO_WORKER", `The job ran with ${model_digest} on ${engine}, and no worker has that now. Of ${model}: ${now}.`);
}
