/**
 * One process at a time: a lock is a file that only one can create, naming its holder by pid and start time. A lock whose
 * holder has died is taken over; taking over has a lock of its own, so that two who find the dead holder don't both win.
 */
import { mkdir, open, readFile, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import { isDiskFull } from "@rbees/kit/system-refusal";
import { identify, isAlive, ProcessIdentity } from "./process-identity.ts";

/** A lock file without readable content was left by a crash in the moment of its making, when it is older than this. */
const UNREADABLE_MS_MAX = 5000;
const LOOK_MS = 20;

export interface LockOptions {
  wait_ms_max: number;
  /** What is being done, for the message to whoever waited in vain. */
  what: string;
  /** Called again and again while another process, of this pid, has the lock; takes its time to look again. */
  onWait?: (pid: number | undefined) => Promise<void>;
  /** Where the disk is full nobody can take it: what makes room, or ends what fills it, is done without. */
  or_when_full?: boolean;
}

export async function withLock<T>(path: string, options: LockOptions, act: () => Promise<T>): Promise<T> {
  await mkdir(dirname(path), { recursive: true });
  try {
    await take(path, options);
  } catch (error) {
    if (options.or_when_full && isDiskFull(error)) return act();
    throw error;
  }
  try {
    return await act();
  } finally {
    await rm(path, { force: true });
  }
}

async function take(path: string, { wait_ms_max, what, onWait }: LockOptions): Promise<void> {
  const until = performance.now() + wait_ms_max;
  while (!(await create(path))) {
    if (await isStale(path)) {
      await breakLock(path);
    } else if (performance.now() >= until) {
      const holder = await holderOf(path);
      throw new RbeesError("CONFLICT", `Another rbees command (pid ${holder?.pid ?? "unknown"}) is ${what}; try again when it is done.`);
    } else if (onWait !== undefined) {
      await onWait((await holderOf(path))?.pid);
    } else {
      await sleep(LOOK_MS * (0.5 + Math.random()));
    }
  }
}

async function create(path: string): Promise<boolean> {
  const self = await identify(process.pid);
  try {
    const file = await open(path, "wx");
    try {
      await file.writeFile(JSON.stringify(self));
    } catch (error) {
      // Nobody could tell whose it is.
      await rm(path, { force: true });
      throw error;
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

async function holderOf(path: string): Promise<ProcessIdentity | undefined> {
  try {
    return ProcessIdentity.safeParse(JSON.parse(await readFile(path, "utf8"))).data;
  } catch {
    return undefined;
  }
}

/** Whether a living process has it now. */
export async function isHeld(path: string): Promise<boolean> {
  const holder = await holderOf(path);
  return holder !== undefined && isAlive(holder);
}

async function isStale(path: string): Promise<boolean> {
  const holder = await holderOf(path);
  if (holder !== undefined) return !(await isAlive(holder));
  const made_ms = await stat(path).then(
    ({ mtimeMs }) => mtimeMs,
    () => Number.POSITIVE_INFINITY,
  );
  return Date.now() - made_ms > UNREADABLE_MS_MAX;
}

/** Looks again while nobody else may break it: by then a living process can hold it. */
async function breakLock(path: string): Promise<void> {
  const breaking = `${path}.breaking`;
  if (!(await create(breaking))) {
    const made_ms = await stat(breaking).then(
      ({ mtimeMs }) => mtimeMs,
      () => Date.now(),
    );
    if (Date.now() - made_ms > UNREADABLE_MS_MAX) await rm(breaking, { force: true });
    else await sleep(LOOK_MS);
    return;
  }
  try {
    if (await isStale(path)) await rm(path, { force: true });
  } finally {
    await rm(breaking, { force: true });
  }
}
