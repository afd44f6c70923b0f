/** `rbees infer`: one attempt at a worker's own `/execute`. The connection is the attempt: Ctrl-C cuts it, and it ends. */
import { randomUUID } from "node:crypto";
import { createClient } from "@rbees/contracts/client";
import { fieldProblems } from "@rbees/contracts/error-body";
import { EXIT, invalidRequest, RbeesError } from "@rbees/contracts/errors";
import { WorkerEvent } from "@rbees/contracts/events";
import { workerdRoutes } from "@rbees/contracts/routes";
import { Execute } from "@rbees/contracts/worker";
import { DOOR, readSecretFile } from "@rbees/kit/key-file";
import { isLoopback } from "@rbees/kit/network";
import { workerFile, workerFolder } from "@rbees/kit/worker-files";
import type { Context } from "../context.ts";
import { httpUrl, missingRoute } from "../orchestrator.ts";
import { readWorkers } from "../pool/worker-record.ts";
import { createAnswer } from "./answer.ts";
import { promptOf } from "./submit.ts";

export interface InferFlags {
  worker: string;
  doorFile?: string | undefined;
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
    const door = await doorOf(context, url, flags.doorFile);
    const headers: Record<string, string> = door === undefined ? {} : { authorization: `Bearer ${door}` };
    const events = await createClient(workerdRoutes, url, { headers }).events("execute", { body: parsed.data }, { signal: context.signal });
    for await (const { data } of events) {
      const event = WorkerEvent.safeParse(JSON.parse(data)).data;
      if (event === undefined || event.type === "embedding") continue;
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
    if (missingRoute(error) !== undefined) {
      throw new RbeesError(
        "NOT_FOUND",
        `What answers at ${url} is no worker: \`rbees-pool worker list\` shows those of this host. Through an orchestrator it is \`rbees jobs submit\`.`,
        { cause: error },
      );
    }
    if (error instanceof RbeesError && error.code === "UNAUTHORIZED") {
      throw new RbeesError(
        "UNAUTHORIZED",
        `${error.message} Or give its secret with --door-file: <worker id>.door in the state folder of its host.`,
        {
          cause: error,
        },
      );
    }
    if (error instanceof RbeesError) throw error;
    throw new RbeesError("WORKER_LOST", `The connection to ${url} broke before the answer was complete.`, { cause: error });
  }
  throw new RbeesError("WORKER_LOST", `${url} ended the stream before the answer was complete.`);
}

/** The secret in the file that was named, else that of the worker of this host which has that port. */
async function doorOf({ home }: Context, url: string, file: string | undefined): Promise<string | undefined> {
  if (file !== undefined) return readSecretFile(file, true, DOOR);
  const { hostname, port } = new URL(url);
  if (!isLoopback(hostname)) return undefined;
  const record = (await readWorkers(home)).find((worker) => String(worker.port) === port);
  return record === undefined ? undefined : readSecretFile(workerFile(workerFolder(home), record.worker_id, "door"), false, DOOR);
}
