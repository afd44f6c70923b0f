/**
 * Whether an audit trail is whole: takes its entries one after the other, in the order in which they lie, and says where one was
 * changed, left out, put elsewhere or put in. Needs the same memory for any length.
 */
import type { KeyObject } from "node:crypto";
import { type AuditRecord, type ChainedEntry, GENESIS, linkHash, recordOf, type SealedEntry } from "./audit-chain.ts";
import { EXPIRED, HEAD, isSignedBy } from "./audit-head.ts";

export interface Problem {
  /** Where the trail shows it: `line 12` of an export, `row 12` of a database, `end`. */
  readonly where: string;
  readonly problem:
    | "changed"
    | "missing"
    | "reordered"
    | "repeated"
    | "unlinked"
    | "unreadable"
    | "cut_off"
    | "forged"
    | "unsigned"
    | "rewritten";
  /** For people. */
  readonly message: string;
}

/** An entry as it was found. A database says some things twice; both must be the same. */
export type FoundEntry = SealedEntry & Partial<Pick<ChainedEntry, "seq" | "at_ms" | "kind">>;

export interface Verdict {
  /** Entries that could be read. */
  readonly entries: number;
  /** The lowest and the highest number among them; null where there is none. */
  readonly first_seq: number | null;
  readonly last_seq: number | null;
  /** Entries up to this one are not there because their time was over, as a later entry says; 0: it begins with the first. */
  readonly expired_until: number;
  /** The last head whose signature is good, when there were keys to check it: it vouches for all before it. */
  readonly signed: { readonly seq: number; readonly at: string } | null;
  /** The first ones, in the order in which they were found. */
  readonly problems: readonly Problem[];
  /** All of them. */
  readonly problem_count: number;
}

const PROBLEMS_KEPT_MAX = 100;
/** Gaps that are remembered, in case what is missing turns up later in the trail. */
const GAPS_MAX = 1000;

interface Gap {
  from: number;
  to: number;
  readonly where: string;
}

export interface CheckOptions {
  /** The trail may begin anywhere. Otherwise it must begin with the first entry that there ever was. */
  readonly part?: boolean;
  /** Public keys of which one must have signed each head, by `keyId`. None: signatures are not looked at. */
  readonly keys?: ReadonlyMap<string, KeyObject> | undefined;
  /** Entries that are known from elsewhere, number and hash: must be in the trail as they are, but for what has expired by its time. */
  readonly kept?: ReadonlyMap<number, string> | undefined;
}

export class ChainCheck {
  readonly #problems: Problem[] = [];
  #problem_count = 0;
  #entries = 0;
  #first: number | undefined;
  /** The entry furthest on, and by which hashes the next may call it: two when it is not clear what of it was changed. */
  #top: { seq: number; hashes: readonly string[] } | undefined;
  /** What could not be read since then: may have been the entries that come next, so that these are not missed too. */
  #unsure = 0;
  #gaps: Gap[] = [];
  #signed: { seq: number; at: string } | undefined;
  readonly #keys: ReadonlyMap<string, KeyObject> | undefined;
  readonly #kept: ReadonlyMap<number, string>;
  /** The last of those. */
  readonly #kept_last: number;
  /** The head with which the trail begins, if it is not its first entry; until an entry says that what was before has expired. */
  #begins_late: { readonly seq: number; readonly hash: string } | undefined;
  #expired_until = 0;

  constructor({ part = false, keys, kept }: CheckOptions = {}) {
    this.#keys = keys;
    this.#kept = kept ?? new Map();
    let last = 0;
    for (const seq of this.#kept.keys()) last = Math.max(last, seq);
    this.#kept_last = last;
    if (!part) this.#top = { seq: 0, hashes: [GENESIS] };
  }

  take(entry: FoundEntry, where: string): void {
    const record = recordOf(entry);
    if (record === undefined) return this.unreadable(where, "its record says no number, time and kind");
    this.#entries += 1;
    const expected = this.#top === undefined ? record.seq : this.#top.seq + 1;
    const sealed = linkHash(entry.previous, entry.record);
    if (sealed !== entry.hash || !sameInRow(entry, record)) {
      this.#report("changed", where, `${name(record, expected)} was changed: ${what(entry, record, sealed)}.`);
      if (record.seq === expected) this.#advance(record.seq, [entry.hash, sealed]);
      else this.#unsure += 1;
      return;
    }
    if (record.seq < expected) return this.#standsTooLate(record.seq, where);
    if (record.seq === expected) {
      const { hashes } = this.#top ?? { hashes: [entry.previous] };
      if (this.#unsure === 0 && !hashes.includes(entry.previous)) {
        this.#report(
          "unlinked",
          where,
          `${name(record, expected)} does not follow from the one before it: the trail was rewritten up to here.`,
        );
      }
    } else if (record.seq - expected > this.#unsure) {
      if (this.#first === undefined && record.kind === HEAD) this.#begins_late = { seq: record.seq, hash: entry.hash };
      if (this.#gaps.length < GAPS_MAX) this.#gaps.push({ from: expected, to: record.seq - 1, where });
      else this.#missing({ from: expected, to: record.seq - 1, where });
    }
    this.#goOn(entry, record, where);
  }

  /** The entry follows, as far as can be seen from itself. */
  #goOn(entry: FoundEntry, record: AuditRecord, where: string): void {
    this.#advance(record.seq, [entry.hash]);
    if (record.kind === HEAD && this.#keys !== undefined) this.#takeHead(entry, record, where, this.#keys);
    if (record.kind === EXPIRED) this.#takeExpired(record);
    const kept = this.#kept.get(record.seq);
    if (kept !== undefined && entry.hash !== kept) {
      this.#report(
        "rewritten",
        where,
        `Entry ${record.seq} is another one than the head that was kept: the trail was rewritten up to here.`,
      );
    }
  }

  /** What was before the head with which the trail begins is not missing, if this entry is about that head. */
  #takeExpired({ head_seq, head_hash }: AuditRecord): void {
    const begin = this.#begins_late;
    if (begin === undefined || head_seq !== begin.seq || head_hash !== begin.hash) return;
    const before = this.#gaps.findIndex(({ from, to }) => from === 1 && to === begin.seq - 1);
    if (before === -1) return;
    this.#gaps.splice(before, 1);
    this.#expired_until = begin.seq - 1;
  }

  /** Something stands where an entry should. */
  unreadable(where: string, why: string): void {
    this.#report("unreadable", where, `What stands here is no entry: ${why}.`);
    this.#unsure += 1;
  }

  /** Something ends where it should go on. */
  cutOff(message: string): void {
    this.#report("cut_off", "end", message);
  }

  /** No more entries. */
  end(): Verdict {
    for (const gap of this.#gaps) this.#missing(gap);
    this.#gaps = [];
    this.#checkHeads();
    if (this.#entries === 0 && this.#problem_count === 0) this.cutOff("There is no entry at all.");
    const last_seq = this.#first === undefined ? null : (this.#top?.seq ?? null);
    const { problems, problem_count } = { problems: this.#problems, problem_count: this.#problem_count };
    const signed = this.#signed ?? null;
    const expired_until = this.#expired_until;
    return { entries: this.#entries, first_seq: this.#first ?? null, last_seq, expired_until, signed, problems, problem_count };
  }

  #takeHead(entry: FoundEntry, record: AuditRecord, where: string, keys: ReadonlyMap<string, KeyObject>): void {
    const key = keys.get(String(record["key"]));
    if (key === undefined) {
      this.#report(
        "unsigned",
        where,
        `The head in entry ${record.seq} is signed with another key, ${record["key"]}. If it was yours, give it too.`,
      );
    } else if (isSignedBy(key, entry, record)) {
      this.#signed = { seq: record.seq, at: record.at };
    } else {
      this.#report("forged", where, `The head in entry ${record.seq} does not have the signature of its key.`);
    }
  }

  #checkHeads(): void {
    if (this.#keys !== undefined && this.#signed === undefined)
      this.#report("unsigned", "end", "No head in it is signed with the key given.");
    const seq = this.#kept_last;
    const last = this.#top?.seq ?? 0;
    if (seq === 0) return;
    // Where entry `seq` itself was changed or left out, that has been said.
    if (last < seq)
      this.#report(
        "cut_off",
        "end",
        `The trail ends with entry ${last}; the head that was kept is entry ${seq}: what came between was cut off.`,
      );
    else if (this.#first !== undefined && this.#first > seq && this.#expired_until < seq)
      this.#report(
        "cut_off",
        "end",
        `The trail begins with entry ${this.#first}; the head that was kept is entry ${seq}. Give a part that holds it.`,
      );
  }

  #advance(seq: number, hashes: readonly string[]): void {
    this.#first ??= seq;
    this.#top = { seq, hashes };
    this.#unsure = 0;
  }

  #standsTooLate(seq: number, where: string): void {
    const after = this.#top?.seq ?? 0;
    const gap = this.#gaps.find(({ from, to }) => from <= seq && seq <= to);
    if (gap === undefined) return this.#report("repeated", where, `Entry ${seq} stands here, after entry ${after}: it has no place there.`);
    this.#report("reordered", where, `Entry ${seq} stands after entry ${after}: the order was changed.`);
    const rest = [
      { ...gap, to: seq - 1 },
      { ...gap, from: seq + 1 },
    ].filter(({ from, to }) => from <= to);
    this.#gaps.splice(this.#gaps.indexOf(gap), 1, ...rest);
  }

  #missing({ from, to, where }: Gap): void {
    const which = from === to ? `Entry ${from} is` : `Entries ${from} to ${to} are`;
    this.#report("missing", where, `${which} missing, before entry ${to + 1}.`);
  }

  #report(problem: Problem["problem"], where: string, message: string): void {
    this.#problem_count += 1;
    if (this.#problems.length < PROBLEMS_KEPT_MAX) this.#problems.push({ where, problem, message });
  }
}

/** The first problem of a whole trail in memory; undefined when there is none. */
export function firstBroken(entries: Iterable<FoundEntry>): Problem | undefined {
  const check = new ChainCheck();
  let at = 0;
  for (const entry of entries) {
    at += 1;
    check.take(entry, `row ${entry.seq ?? at}`);
  }
  return check.end().problems[0];
}

function name({ seq }: AuditRecord, expected: number): string {
  return seq === expected ? `Entry ${seq}` : `What stands where entry ${expected} is due, and calls itself entry ${seq},`;
}

function sameInRow({ seq, at_ms, kind }: FoundEntry, record: AuditRecord): boolean {
  return (
    (seq === undefined || seq === record.seq) &&
    (kind === undefined || kind === record.kind) &&
    (at_ms === undefined || at_ms === Date.parse(record.at))
  );
}

function what(entry: FoundEntry, record: AuditRecord, sealed: string): string {
  return sealed !== entry.hash
    ? "record, hash and the hash before do not belong together"
    : `its row says ${entry.seq}, ${entry.at_ms} ms, ${entry.kind}; its record says ${record.seq}, ${record.at}, ${record.kind}`;
}
