/** Files that only their owner may read: keys and other secrets. */
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

export interface PrivateFile {
  readonly text: string;
  /** Whether others may read or write it. Windows says that of every file; its rights are elsewhere. */
  readonly open_to_others: boolean;
}

/** Undefined when there is no such file. */
export function readPrivateFile(path: string): PrivateFile | undefined {
  try {
    return { text: readFileSync(path, "utf8"), open_to_others: process.platform !== "win32" && (statSync(path).mode & 0o077) !== 0 };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Replaces the file: readers see the old or the new text, and others than its owner neither. */
export function writePrivateFile(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(draft, text, { mode: 0o600, flush: true });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}
