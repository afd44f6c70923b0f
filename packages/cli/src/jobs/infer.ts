/** `rbees infer`: one attempt at a worker's own `/execute`. The connection is the attempt: Ctrl-C cuts it, and it ends. */
import { randomUUID } from "node:crypto";
import { createClient } from "@rbees/contracts/client";
import { fieldProblems } from "@rbees/contracts/error-body";
import { EXIT, invalidRequest, RbeesError } from "@rbees/contracts/errors";
import { WorkerEvent } from "@rbees/contracts/events";
import { workerdRoutes } from "@rbees/contracts/routes";
import { Execute } from "@rbees/contracts/worker";
import type { Context } from "../context.ts";
import { httpUrl } from "../orchestrator.ts";
import { createAnswer } from "./answer.ts";
import { promptOf } from "./submit.ts";

export interface InferFlags {
  worker: string;
  prompt?: string | undefined;
  promptFile?: string | undefined;
  maxTokens: number;
  temperature?: number | undefined;
  seed?: number | undefined;
  stop?: string[] | undefined;
  raw?: boolean | undefined;
}

export async function infer(context: Context, flags: InferFlags): Promise<number> {
  const url = httpUrl(flags.worker, "--worker");
  const job_id = `infer-${randomUUID()}`;
  const parsed = Execute.safeParse({
    job_id,
    prompt: await promptOf(context, flags),
    max_tokens: flags.maxTokens,
    temperature: flags.temperature,
    seed: flags.seed,
    stop: flags.stop,
    raw: flags.raw,
  });
  if (!parsed.success) throw invalidRequest(fieldProblems(parsed.error), "prompt");
  const answer = createAnswer(context, { job_id, since_ms: performance.now() });
  try {
    const events = await createClient(workerdRoutes, url).events("execute", { body: parsed.data }, { signal: context.signal });
    for await (const { data } of events) {
      const event = WorkerEvent.safeParse(JSON.parse(data)).data;
      if (event === undefined) continue;
      if (event.type === "end" || event.type === "error") return answer.last(event);
      answer.event(event);
    }
  } catch (error) {
    if (context.signal.aborted) return EXIT.interrupted;
    if (error instanceof RbeesError && error.code === "UNREACHABLE" && error.cause !== undefined) {
      throw new RbeesError("UNREACHABLE", `No worker answers at ${url}: \`rbees-pool worker list\` shows those of this host.`, {
        cause: error,
      });
    }
    if (error instanceof RbeesError) throw error;
    throw new RbeesError("WORKER_LOST", `The connection to ${url} broke before the answer was complete.`, { cause: error });
  }
  throw new RbeesError("WORKER_LOST", `${url} ended the stream before the answer was complete.`);
}
