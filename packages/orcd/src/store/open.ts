/** The orchestrator's side of the store's thread: every method is a message, answered in order. */
import { extname, join } from "node:path";
import { Worker } from "node:worker_threads";
import { RbeesError } from "@rbees/contracts/errors";
import { OrderWriter } from "./orders.ts";
import type { Change, Store } from "./port.ts";
import type { StoreKeys } from "./sqlite.ts";
import type { Answer, Call } from "./thread.ts";

/** The database of a data folder. */
export function databaseIn(data_dir: string): string {
  return join(data_dir, "orcd.sqlite");
}

/** Opens the database at `path`, making it if there is none. `DatabaseHeld` when another orchestrator has it. */
export async function openStore(path: string, keys: StoreKeys = {}): Promise<Store> {
  const thread = new Worker(new URL(`./thread${extname(import.meta.url)}`, import.meta.url), {
    workerData: { path, keys },
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
  });
  /** Calls that are not answered yet, oldest first: that is the order of the answers. */
  let open: { resolve: (value: unknown) => void; reject: (error: Error) => void }[] = [];
  /** Commits of this turn of the event loop: they travel as one message, and become durable as one transaction. */
  let turn: { changes: Change[]; waiters: (() => void)[]; failed: ((error: Error) => void)[] } | undefined;
  const orders = new OrderWriter();
  let dead: Error | undefined;

  const ready = new Promise<unknown>((resolve, reject) => open.push({ resolve, reject }));
  thread.on("message", ({ calls, value, error }: Answer) => {
    for (const waiter of open.splice(0, calls)) {
      if (error === undefined) waiter.resolve(value);
      else waiter.reject(Object.assign(new Error(error.message), { code: error.code }));
    }
  });
  const die = (error: Error) => {
    dead = error;
    for (const { reject } of open) reject(error);
    open = [];
  };
  thread.on("error", die);
  thread.on("exit", (code) => die(new Error(`the store's thread has ended (${code})`)));
  try {
    await ready;
  } catch (error) {
    throw openError(error, path);
  }

  const call = <T>(message: Call): Promise<T> =>
    new Promise((resolve, reject) => {
      if (dead !== undefined) return reject(dead);
      open.push({ resolve: resolve as (value: unknown) => void, reject });
      thread.postMessage(message);
    });
  const flush = () => {
    if (turn === undefined) return;
    const { changes, waiters, failed } = turn;
    turn = undefined;
    call<void>({ method: "commit", changes: orders.write(changes) }).then(
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
  const read = <T>(message: Call): Promise<T> => {
    flush();
    return call(message);
  };
  return {
    commit,
    listJobs: (query) => read({ method: "listJobs", argument: query }),
    showJob: (id) => read({ method: "showJob", argument: id }),
    listJoinTokens: (after_ms) => read({ method: "listJoinTokens", argument: after_ms }),
    listWorkerCredentials: () => read({ method: "listWorkerCredentials", argument: undefined }),
    listKeys: () => read({ method: "listKeys", argument: undefined }),
    listTenants: () => read({ method: "listTenants", argument: undefined }),
    usageOf: (day) => read({ method: "usageOf", argument: day }),
    exportSubject: (page) => read({ method: "exportSubject", argument: page }),
    eraseSubject: (act) => read({ method: "eraseSubject", argument: act }),
    recordConsent: (act) => read({ method: "recordConsent", argument: act }),
    listConsents: (subject) => read({ method: "listConsents", argument: subject }),
    expireAudit: (retention) => read({ method: "expireAudit", argument: retention }),
    lastHead: () => read({ method: "lastHead", argument: undefined }),
    expireContent: (retention) => read({ method: "expireContent", argument: retention }),
    listFiles: (query) => read({ method: "listFiles", argument: query }),
    showFile: (id) => read({ method: "showFile", argument: id }),
    fileContent: (id) => read({ method: "fileContent", argument: id }),
    fileBytes: () => read({ method: "fileBytes", argument: undefined }),
    expiredFiles: (retention) => read({ method: "expiredFiles", argument: retention }),
    listBatches: (query) => read({ method: "listBatches", argument: query }),
    showBatch: (id) => read({ method: "showBatch", argument: id }),
    liveBatches: () => read({ method: "liveBatches", argument: undefined }),
    batchLines: (query) => read({ method: "batchLines", argument: query }),
    countLines: (batch_id) => read({ method: "countLines", argument: batch_id }),
    recover: (now_ms) => read({ method: "recover", argument: now_ms }),
    close: () => read({ method: "close" }),
  };
}

/** Another process has this database. */
export class DatabaseHeld extends RbeesError {
  constructor(path: string, cause: unknown) {
    super("CONFLICT", `${path} is in use by another orchestrator. Stop that one, or give this one its own --data-dir.`, { cause });
  }
}

function openError(error: unknown, path: string): unknown {
  const { message, code = "" } = error as Error & { code?: string };
  // Of the thread, where it has lost its class.
  if (code === "CONFLICT") return new RbeesError("CONFLICT", message, { cause: error });
  // Kysely's words for a table that this version does not make.
  if (/previously executed migration .* is missing/.test(message))
    return new RbeesError("CONFLICT", `The database ${path} was written by a newer rbees-orcd; start that one, or one that is newer yet.`, {
      cause: error,
    });
  if (code === "SQLITE_BUSY" || /locked/.test(message)) return new DatabaseHeld(path, error);
  const broken = brokenStore(error, path);
  if (broken !== undefined) return broken;
  return new RbeesError("CONFLICT", `The database ${path} can't be opened: ${message}`, { cause: error });
}

/** What people can mend, in a sentence: a full disk, a damaged file. Of any other failure of the store undefined. */
export function brokenStore(error: unknown, path: string): RbeesError | undefined {
  const { message, code = "" } = error as Error & { code?: string };
  if (code === "SQLITE_FULL") {
    return new RbeesError("CONFLICT", `The disk has no room for ${path}: free some, then start again.`, { cause: error });
  }
  if (code.startsWith("SQLITE_CORRUPT")) {
    const advice = "Restore a copy of its folder; or move it away, and there are no jobs, keys and audit trail";
    return new RbeesError("CONFLICT", `The database ${path} is damaged (${message}). ${advice}.`, { cause: error });
  }
  return undefined;
}
