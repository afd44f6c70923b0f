/**
 * A worker counts as there when the orchestrator itself has reached it at the address that it announced, and it answered under the
 * id that it claims and to the secret that it gave: an address that leads nowhere, or to somebody else, is refused at registration and
 * not found out by a job.
 */
import { request } from "node:http";
import { request as requestTls } from "node:https";
import { RbeesError } from "@rbees/contracts/errors";
import { tlsSentence } from "@rbees/contracts/tls-errors";
import type { RegisterWorker } from "@rbees/contracts/worker";
import { authority } from "@rbees/kit/network";
import { z } from "zod";
import type { Place } from "./worker-place.ts";

/** Less than a worker waits for the answer to its registration. */
const CALL_BACK_MS_MAX = 3_000;
/** No worker's health is longer. */
const ANSWER_BYTES_MAX = 65_536;

/** What is needed of a worker's health; the rest is its own affair. */
const Health = z.object({ worker_id: z.string(), closed: z.boolean().default(false) });

/** `known` is where a worker of this id is registered already, if that is elsewhere: while it lives, its id is its own. */
export async function callBack({ id, door }: RegisterWorker, place: Place, known: Place | undefined): Promise<void> {
  const elsewhere = known === undefined || known.origin === place.origin ? undefined : known;
  const [found, there] = await Promise.all([workerAt(place, door), elsewhere === undefined ? undefined : workerAt(elsewhere, undefined)]);
  if (there?.worker_id === id) {
    throw new RbeesError(
      "FORBIDDEN",
      `Worker ${id.slice(0, 128)} at ${place.origin} is not registered: another worker of that name answers at ${elsewhere?.origin}. Give one of them another name (rbees-pool worker spawn --name).`,
    );
  }
  const what =
    found.worker_id === undefined
      ? found.problem
      : found.worker_id !== id
        ? `worker ${found.worker_id.slice(0, 128)} answers there`
        : door !== undefined && !found.closed
          ? "the worker there does not ask for the secret that was announced"
          : undefined;
  if (what === undefined) return;
  // Not CONFLICT: that would tell the worker that its time is over, and it may only have to wait for a route.
  throw new RbeesError(
    "UNREACHABLE",
    `Worker ${id.slice(0, 128)} is not registered: the orchestrator tried GET ${place.origin}/health, the address that the worker announced, and ${what}. A worker announces another address with --advertise-host (rbees-pool worker spawn --advertise).`,
  );
}

type Found = { worker_id: string; closed: boolean } | { worker_id: undefined; problem: string };

async function workerAt(place: Place, door: string | undefined): Promise<Found> {
  try {
    const { status, text } = await get(place, door);
    // A worker answers everybody but those who show a wrong secret.
    if (status === 401) return { worker_id: undefined, problem: "the worker there has another secret" };
    const health = Health.safeParse(parseJson(text));
    if (health.success) return health.data;
    return { worker_id: undefined, problem: `what answers there is no worker of rbees (HTTP ${status})` };
  } catch (error) {
    return { worker_id: undefined, problem: reasonOf(error) };
  }
}

/** To the address that was looked at, whatever the name means by now; and no further, wherever that may point. */
function get({ host, port, address, tls }: Place, door: string | undefined): Promise<{ status: number; text: string }> {
  const headers = {
    host: authority(host, port),
    accept: "application/json",
    connection: "close",
    ...(door === undefined ? {} : { authorization: `Bearer ${door}` }),
  };
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(CALL_BACK_MS_MAX);
    const to = { host: address, port, path: "/health", headers, agent: false as const, signal };
    const asked = (tls === undefined ? request(to) : requestTls({ ...to, ...tls })).on("response", (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
        if (text.length > ANSWER_BYTES_MAX) answer.destroy(new Error("its answer has no end"));
      });
      answer.on("error", reject);
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, text }));
    });
    asked.on("error", reject);
    asked.end();
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code, message } = ((error.cause as Error | undefined)?.name === "TimeoutError" ? error.cause : error) as NodeJS.ErrnoException;
  if (error.name === "TimeoutError" || error.name === "AbortError") return `nothing answered within ${CALL_BACK_MS_MAX / 1000} s`;
  const tls = tlsSentence(code ?? "");
  return tls === undefined ? `got no answer (${code ?? message})` : `the answer there is not trusted (${code}): ${tls}`;
}
