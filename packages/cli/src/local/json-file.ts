/** A JSON file that survives crashes and company: written whole or not at all, changed under a lock, set aside when corrupt. */
import { randomUUID } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import type { z } from "zod";
import { withLock } from "./lock.ts";

const LOCK_MS_MAX = 15_000;

/** The content, or undefined when there is no file or it can't be made sense of. */
export async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  const text = await readText(path);
  return text === undefined ? undefined : parse(text, schema);
}

export function writeJson(path: string, value: unknown): Promise<void> {
  return writeWhole(path, `${JSON.stringify(value, null, 2)}\n`, 0o600);
}

/** Replaces the file: readers see the old or the new content, also after a power cut. */
export async function writeWhole(path: string, text: string, mode: number): Promise<void> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  const draft = `${path}.${randomUUID()}.tmp`;
  try {
    const file = await open(draft, "wx", mode);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
  await syncFolder(folder);
}

export interface SharedFile<T> {
  read(): Promise<T>;
  /** Reads, changes, writes, with nobody else in between. */
  update(change: (now: T) => T): Promise<T>;
}

/**
 * A file that several processes change. `begin` makes the content when there is none yet. `notice` hears of a corrupt one, which
 * is kept beside it for inspection.
 */
export function sharedFile<T>(
  path: string,
  schema: z.ZodType<T>,
  begin: () => T | Promise<T>,
  notice: (sentence: string) => void,
): SharedFile<T> {
  const locked = <R>(act: () => Promise<R>) => withLock(`${path}.lock`, { wait_ms_max: LOCK_MS_MAX, what: `changing ${path}` }, act);
  const readLocked = async (): Promise<T> => {
    const text = await readText(path);
    if (text === undefined) return begin();
    const value = parse(text, schema);
    if (value !== undefined) return value;
    const aside = `${path}.corrupt-${new Date().toISOString().replace(/[:.]/g, "-")}`;
    await rename(path, aside);
    notice(`${path} is damaged; it is set aside as ${aside}, and a new one is begun.`);
    return begin();
  };
  return {
    async read() {
      const text = await readText(path);
      if (text === undefined) return begin();
      return parse(text, schema) ?? (await locked(readLocked));
    },
    update: (change) =>
      locked(async () => {
        const changed = change(await readLocked());
        await writeJson(path, changed);
        return changed;
      }),
  };
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

function parse<T>(text: string, schema: z.ZodType<T>): T | undefined {
  try {
    return schema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

async function syncFolder(folder: string): Promise<void> {
  // Windows can't open folders; there the rename itself is durable enough.
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
