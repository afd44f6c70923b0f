/** A whole copy of a database, also of one that is in use: its files themselves, copied one after the other, would be of different moments. */
import { closeSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import Sqlite from "better-sqlite3";

/** Longer than any commit, shorter than somebody's patience. */
const BUSY_MS = 10_000;

/** `to` is there as a whole and on its disk, or not at all. Only its owner may read it. */
export function copyDatabase(from: string, to: string): void {
  const draft = `${to}.part`;
  rmSync(draft, { force: true });
  try {
    // It may lie there when it is empty, and keeps its rights then.
    closeSync(openSync(draft, "wx", 0o600));
    const sqlite = new Sqlite(from, { fileMustExist: true, timeout: BUSY_MS });
    try {
      sqlite.prepare("vacuum into ?").run(draft);
    } finally {
      sqlite.close();
    }
    synced(draft, "r+");
    renameSync(draft, to);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
  // Windows has no folders that are synced.
  if (process.platform !== "win32") synced(dirname(to), "r");
}

function synced(path: string, flags: string): void {
  const file = openSync(path, flags);
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
