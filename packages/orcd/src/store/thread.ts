/** The store's thread: takes messages in order, groups the commits that have queued, answers each. */
import { parentPort, workerData } from "node:worker_threads";
import type { Change } from "./port.ts";
import { SqliteStore } from "./sqlite.ts";

export type Call =
  | { id: number; method: "commit"; changes: readonly Change[] }
  | { id: number; method: "listJobs" | "showJob" | "recover"; argument: unknown }
  | { id: number; method: "close" };
export type Answer = { id: number; value?: unknown; error?: { message: string; code: string | undefined } };

const port = parentPort;
if (port === null) throw new Error("the store's thread has no parent");

const store = await SqliteStore.open((workerData as { path: string }).path);
const waiting: Call[] = [];
let busy = false;
port.on("message", (call: Call) => {
  waiting.push(call);
  if (!busy) void work();
});
port.postMessage({ id: 0 } satisfies Answer);

async function work(): Promise<void> {
  busy = true;
  while (waiting.length > 0) {
    // Messages that arrived while the last transaction was on its way to disk are in the port's queue: let them in first.
    await new Promise((resolve) => setImmediate(resolve));
    const group: Extract<Call, { method: "commit" }>[] = [];
    while (waiting[0]?.method === "commit") group.push(waiting.shift() as (typeof group)[number]);
    if (group.length > 0) await answer(group, () => store.commit(group.flatMap(({ changes }) => changes)));
    const call = waiting.shift();
    if (call === undefined) continue;
    await answer([call], () => read(call));
    if (call.method === "close") port?.close();
  }
  busy = false;
}

async function read(call: Call): Promise<unknown> {
  if (call.method === "close") return store.close();
  if (call.method === "commit") return store.commit(call.changes);
  return store[call.method](call.argument as never);
}

async function answer(calls: readonly Call[], work: () => Promise<unknown>): Promise<void> {
  try {
    const value = await work();
    for (const { id } of calls) port?.postMessage({ id, value } satisfies Answer);
  } catch (error) {
    const { message, code } = error as Error & { code?: string };
    for (const { id } of calls) port?.postMessage({ id, error: { message, code } } satisfies Answer);
  }
}
