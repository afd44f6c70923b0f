/** The store's thread: takes messages in order, groups the commits that have queued, answers each. */
import { parentPort, workerData } from "node:worker_threads";
import { SqliteStore } from "./sqlite.ts";
import { ordersFrom } from "./statement.ts";

export type Call =
  /** `changes`: as `encodeChanges` wrote them. */
  { method: "commit"; changes: string } | { method: "listJobs" | "showJob" | "recover"; argument: unknown } | { method: "close" };
/** To the oldest call that has none yet; the first one says that the database is open. */
export type Answer = { value?: unknown; error?: { message: string; code: string | undefined } };

const port = parentPort;
if (port === null) throw new Error("the store's thread has no parent");

const store = await SqliteStore.open((workerData as { path: string }).path);
const waiting: Call[] = [];
let busy = false;
port.on("message", (call: Call) => {
  waiting.push(call);
  if (!busy) void work();
});
port.postMessage({} satisfies Answer);

async function work(): Promise<void> {
  busy = true;
  while (waiting.length > 0) {
    // Messages that arrived while the last transaction was on its way to disk are in the port's queue: let them in first.
    await new Promise((resolve) => setImmediate(resolve));
    const group: Extract<Call, { method: "commit" }>[] = [];
    while (waiting[0]?.method === "commit") group.push(waiting.shift() as (typeof group)[number]);
    if (group.length > 0) await answer(group, () => store.commit(group.flatMap(({ changes }) => ordersFrom(changes))));
    const call = waiting.shift();
    if (call === undefined) continue;
    await answer([call], () => read(call));
    if (call.method === "close") port?.close();
  }
  busy = false;
}

async function read(call: Call): Promise<unknown> {
  if (call.method === "close") return store.close();
  if (call.method === "commit") return store.commit(ordersFrom(call.changes));
  return store[call.method](call.argument as never);
}

async function answer(calls: readonly Call[], work: () => Promise<unknown>): Promise<void> {
  try {
    const value = await work();
    for (const _ of calls) port?.postMessage({ value } satisfies Answer);
  } catch (error) {
    const { message, code } = error as Error & { code?: string };
    for (const _ of calls) port?.postMessage({ error: { message, code } } satisfies Answer);
  }
}
