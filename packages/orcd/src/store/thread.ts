/** The store's thread: takes messages in order, groups the commits that have queued, answers each. */
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { OrderReader } from "./orders.ts";
import type { Store } from "./port.ts";
import { SqliteStore, type StoreKeys } from "./sqlite.ts";

export type Call =
  /** `changes`: as an `OrderWriter` wrote them. */
  | { method: "commit"; changes: string }
  | {
      method: Exclude<keyof Store, "commit" | "close">;
      argument: unknown;
    }
  | { method: "close" };
/** To so many of the oldest calls that have none yet; the first one says that the database is open. */
export type Answer = { calls: number; value?: unknown; error?: { message: string; code: string | undefined } };

const port = parentPort;
if (port === null) throw new Error("the store's thread has no parent");

const { path, keys } = workerData as { path: string; keys: StoreKeys };
const store = await SqliteStore.open(path, keys);
const orders = new OrderReader();
const waiting: Call[] = [];
let busy = false;
port.on("message", (call: Call) => {
  waiting.push(call);
  if (!busy) void work();
});
port.postMessage({ calls: 1 } satisfies Answer);

async function work(): Promise<void> {
  busy = true;
  for (;;) {
    // What arrived while the last transaction was on its way to disk is in the port's queue: it joins this one.
    for (let more = next(); more !== undefined; more = next()) waiting.push(more);
    if (waiting.length === 0) break;
    const group: Extract<Call, { method: "commit" }>[] = [];
    while (waiting[0]?.method === "commit") group.push(waiting.shift() as (typeof group)[number]);
    if (group.length > 0) await answer(group.length, () => store.commit(group.flatMap(({ changes }) => orders.read(changes))));
    const call = waiting.shift();
    if (call === undefined) continue;
    await answer(1, () => read(call));
    if (call.method === "close") port?.close();
  }
  busy = false;
}

function next(): Call | undefined {
  return receiveMessageOnPort(port as MessagePort)?.message;
}

async function read(call: Call): Promise<unknown> {
  if (call.method === "close") return store.close();
  if (call.method === "commit") return store.commit(orders.read(call.changes));
  const reads = (call.method in store.batches ? store.batches : store) as unknown as Record<string, (argument: unknown) => unknown>;
  return reads[call.method]?.(call.argument);
}

async function answer(calls: number, work: () => Promise<unknown>): Promise<void> {
  try {
    port?.postMessage({ calls, value: await work() } satisfies Answer);
  } catch (error) {
    const { message, code } = error as Error & { code?: string };
    port?.postMessage({ calls, error: { message, code } } satisfies Answer);
  }
}
