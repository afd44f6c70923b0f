/** Audit trails for tests: chained as the orchestrator chains them, in a database with its table and in an export. */
import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { type ChainedEntry, chain, exportLine, GENESIS } from "@rbees/kit/audit-chain";
import { headEntry } from "@rbees/kit/audit-head";

const START_MS = Date.parse("2026-11-26T10:00:00Z");

/** One entry a second, four a job. Names are of every script, since bytes of UTF-8 may be changed too. */
export function trailOf(count: number): ChainedEntry[] {
  let previous = GENESIS;
  return Array.from({ length: count }, (_, n) => {
    const kind = ["job.accepted", "job.dispatched", "job.requeued", "job.ended"][n % 4] as string;
    const fields = { job_id: `job_${Math.floor(n / 4)}`, model: "modèle-模型-\uFFFD-🐝", max_tokens: n, code: null };
    const entry = chain({ at_ms: START_MS + 1000 * n, kind, fields }, n + 1, previous);
    previous = entry.hash;
    return entry;
  });
}

export const KEY = generateKeyPairSync("ed25519");

/** The same, with a head after each hundred entries, the head among them; `key` signs. */
export function signedTrailOf(count: number, key: KeyObject = KEY.privateKey, fields: { forged?: boolean } = {}): ChainedEntry[] {
  let previous = GENESIS;
  return Array.from({ length: count }, (_, n) => {
    const at_ms = START_MS + 1000 * n;
    const entry =
      n % 100 === 99
        ? headEntry(at_ms, n + 1, previous, key)
        : chain({ at_ms, kind: "job.ended", fields: { job_id: `job_${n}`, ...fields } }, n + 1, previous);
    previous = entry.hash;
    return entry;
  });
}

export function exported(entries: readonly ChainedEntry[]): string {
  return entries.map((entry) => `${exportLine(entry)}\n`).join("");
}

export function writeDatabase(path: string, entries: readonly ChainedEntry[]): void {
  const db = new DatabaseSync(path);
  db.exec(`pragma journal_mode = wal; create table audit (seq integer primary key, at_ms bigint not null, kind text not null,
    record text not null, previous text not null, hash text not null); begin`);
  const insert = db.prepare("insert into audit values (?, ?, ?, ?, ?, ?)");
  for (const { seq, at_ms, kind, record, previous, hash } of entries) insert.run(seq, at_ms, kind, record, previous, hash);
  db.exec("commit");
  db.close();
}
