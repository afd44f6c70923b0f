/** Downloads of which only a part is here, told from the journals beside the partial files. */
import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import type { PoolUnfinished } from "@rbees/contracts/pool";
import type { Home } from "@rbees/kit/home";
import { isHeld } from "../local/lock.ts";
import { modelsFolder } from "../pool/catalogue.ts";
import { lockOf } from "./delete.ts";
import { journalOf, readJournal } from "./journal.ts";

export async function unfinishedDownloads(home: Home): Promise<PoolUnfinished[]> {
  const entries = await readdir(modelsFolder(home)).catch(() => []);
  const found = await Promise.all(entries.map((entry) => unfinishedIn(join(modelsFolder(home), entry))));
  return found.flat().sort((a, b) => a.name.localeCompare(b.name) || a.file.localeCompare(b.file));
}

async function unfinishedIn(folder: string): Promise<PoolUnfinished[]> {
  const ending = journalOf("");
  const files = (await readdir(folder).catch(() => [])).filter((file) => file.endsWith(ending));
  const running = await isHeld(lockOf(folder));
  const found = await Promise.all(
    files.map(async (file) => {
      const path = join(folder, file.slice(0, -ending.length));
      const journal = await readJournal(path);
      if (journal === undefined) return [];
      const { head, ranges } = journal;
      return [{ name: head.name, reference: head.reference, file: basename(path), bytes: ranges.bytes, bytes_total: head.bytes, running }];
    }),
  );
  return found.flat();
}
