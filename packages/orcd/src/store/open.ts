/** The orchestrator's side of the store's thread: every method is a message, answered in order. */
import { extname } from "node:path";
import { Worker } from "node:worker_threads";
import { RbeesError } from "@rbees/contracts/errors";
import type { Change, Store } from "./port.ts";
import type { Answer, Call } from "./thread.ts";

type NewCall = Call extends infer Each ? (Each extends Call ? Omit<Each, "id"> : never) : never;

/** Opens the database at `path`, making it if there is none. CONFLICT when another orchestrator holds it. */
export async function openStore(path: string): Promise<Store> {
  const thread = new Worker(new URL(`./thread${extname(import.meta.url)}`, import.meta.url), { workerData: { path } });
  const open = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  /** Commits of this turn of the event loop: they travel as one message, and become durable as one transaction. */
  let turn: { changes: Change[]; waiters: (() => void)[]; failed: ((error: Error) => void)[] } | undefined;
  let last_id = 0;
  let dead: Error | undefined;

  const ready = new Promise<unknown>((resolve, reject) => open.set(0, { resolve, reject }));
  thread.on("message", ({ id, value, error }: Answer) => {
    const waiter = open.get(id);
    open.delete(id);
    if (error === undefined) waiter?.resolve(value);
    else waiter?.reject(Object.assign(new Error(error.message), { code: error.code }));
  });
  const die = (error: Error) => {
    dead = error;
    for (const { reject } of open.values()) reject(error);
    open.clear();
  };
  thread.on("error", die);
  thread.on("exit", (code) => die(new Error(`the store's thread has ended (${code})`)));
  try {
    await ready;
  } catch (error) {
    throw openError(error, path);
  }

  const call = <T>(message: NewCall): Promise<T> =>
    new Promise((resolve, reject) => {
      if (dead !== undefined) return reject(dead);
      last_id += 1;
      open.set(last_id, { resolve: resolve as (value: unknown) => void, reject });
      thread.postMessage({ ...message, id: last_id });
    });
  const flush = () => {
    if (turn === undefined) return;
    const { changes, waiters, failed } = turn;
    turn = undefined;
    call<void>({ method: "commit", changes }).then(
      () => {
        for (const done of waiters) done();
      },
      (error) => {
        for (const fail of failed) fail(error);
      },
    );
  };
  const commit = (changes: readonly Change[]): Promise<void> =>
    new Promise((resolve, reject) => {
      if (turn === undefined) {
        turn = { changes: [], waiters: [], failed: [] };
        setImmediate(flush);
      }
      turn.changes.push(...changes);
      turn.waiters.push(resolve);
      turn.failed.push(reject);
    });
  // Calls are answered in order, so a read sees every commit that was asked for before it.
  const read = <T>(message: NewCall): Promise<T> => {
    flush();
    return call(message);
  };
  return {
    commit,
    listJobs: (query) => read({ method: "listJobs", argument: query }),
    showJob: (id) => read({ method: "showJob", argument: id }),
    recover: (now_ms) => read({ method: "recover", argument: now_ms }),
    close: () => read({ method: "close" }),
  };
}

function openError(error: unknown, path: string): unknown {
  const { message, code = "" } = error as Error & { code?: string };
  if (code === "SQLITE_BUSY" || /locked/.test(message)) {
    return new RbeesError("CONFLICT", `${path} is in use by another orchestrator. Stop that one, or give this one its own --data-dir.`, {
      cause: error,
    });
  }
  return new RbeesError("CONFLICT", `The database ${path} can't be opened: ${message}`, { cause: error });
}
