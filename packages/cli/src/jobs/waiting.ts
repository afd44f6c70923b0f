/**
 * What is said to whoever follows a job that does not begin, or not again: after a moment, what it waits for, once in each wait. Without that a job that no worker
 * can take looks like one that is about to start, and in a pipe like nothing at all.
 */
import type { JobEvent } from "@rbees/contracts/events";
import type { Context } from "../context.ts";
import type { Orchestrator } from "../orchestrator.ts";

/** How long a job may wait without a word. */
export const WAIT_SAID_MS = 3000;

export interface Waiting {
  event(event: JobEvent): void;
  /** It is over, or nobody follows it any more. */
  stop(): void;
}

export function tellWaiting({ say }: Pick<Context, "say">, orchestrator: Pick<Orchestrator, "call">, job_id: string): Waiting {
  let timer: NodeJS.Timeout | undefined;
  let waits = false;
  const stop = () => {
    waits = false;
    clearTimeout(timer);
  };
  const tell = async () => {
    try {
      const { status, answer } = await orchestrator.call("explainJob", { params: { id: job_id } });
      if (!waits || status !== "queued") return;
      say(`Job ${job_id} is queued. ${answer} \`rbees jobs why ${job_id}\` says more.`);
    } catch {
      // What it waits for is told beside the answer: it may not spoil that.
    }
  };
  return {
    event({ type }) {
      // What is being loaded for it is a wait too.
      if (type !== "queued" && type !== "loading") return stop();
      if (waits) return;
      waits = true;
      timer = setTimeout(tell, WAIT_SAID_MS);
    },
    stop,
  };
}
