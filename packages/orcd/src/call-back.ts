/**
 * A worker counts as there when the orchestrator itself has reached it at the address that it announced, and it answered under the
 * id that it claims: an address that leads nowhere, or to somebody else, is refused at registration and not found out by a job.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { RegisterWorker } from "@rbees/contracts/worker";
import { z } from "zod";
import { originOf } from "./worker-directory.ts";

/** Less than a worker waits for the answer to its registration. */
const CALL_BACK_MS_MAX = 3_000;

/** What is needed of a worker's health; the rest is its own affair. */
const Health = z.object({ worker_id: z.string() });

/** `known_at` is where a worker of this id is registered already, if that is elsewhere: while it lives, its id is its own. */
export async function callBack({ id, host, port }: RegisterWorker, known_at: string | undefined): Promise<void> {
  const origin = originOf({ host, port });
  const [found, known] = await Promise.all([
    workerAt(origin),
    known_at === undefined || known_at === origin ? undefined : workerAt(known_at),
  ]);
  if (known?.worker_id === id) {
    throw new RbeesError(
      "UNREACHABLE",
      `Worker ${id.slice(0, 128)} at ${origin} is not registered: another worker of that name answers at ${known_at}. Give one of them another name (rbees-pool worker spawn --name).`,
    );
  }
  if (found.worker_id === id) return;
  const what = found.worker_id === undefined ? found.problem : `worker ${found.worker_id.slice(0, 128)} answers there`;
  // Not CONFLICT: that would tell the worker that its time is over, and it may only have to wait for a route.
  throw new RbeesError(
    "UNREACHABLE",
    `Worker ${id.slice(0, 128)} is not registered: the orchestrator tried GET ${origin}/health, the address that the worker announced, and ${what}. A worker announces another address with --advertise-host (rbees-pool worker spawn --advertise).`,
  );
}

async function workerAt(origin: string): Promise<{ worker_id: string } | { worker_id: undefined; problem: string }> {
  try {
    const headers = { accept: "application/json", connection: "close" };
    const response = await fetch(`${origin}/health`, { headers, redirect: "error", signal: AbortSignal.timeout(CALL_BACK_MS_MAX) });
    const health = Health.safeParse(await response.json().catch(() => undefined));
    if (health.success) return health.data;
    return { worker_id: undefined, problem: `what answers there is no worker of rbees (HTTP ${response.status})` };
  } catch (error) {
    return { worker_id: undefined, problem: reasonOf(error) };
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === "TimeoutError") return `nothing answered within ${CALL_BACK_MS_MAX / 1000} s`;
  const { code, message } = (error.cause ?? error) as NodeJS.ErrnoException;
  return `got no answer (${code ?? message})`;
}
