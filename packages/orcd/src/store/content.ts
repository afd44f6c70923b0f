/**
 * Prompts and answers in the store: which subject a job or a line of a file is of, with whose key its content is sealed and read. One
 * subject a tenant has no name: that of what names none.
 */
import { type KeyObject, randomBytes } from "node:crypto";
import type Sqlite from "better-sqlite3";
import { seal, unseal } from "./seal.ts";
import { type ContentKey, SubjectKeys } from "./subject-keys.ts";

/** A subject by name; null is the one without. */
export interface SubjectName {
  readonly tenant: string;
  readonly name: string | null;
}

/** A row that says whose it is. */
export type RowRef = { readonly job_id: string } | { readonly line_id: string };

export interface Subject {
  readonly id: string;
  readonly key: KeyObject;
}

/** Subjects whose keys are held in memory. */
const HELD_MAX = 10_000;
const NAMELESS = "";

export class Content {
  readonly keys: SubjectKeys;
  readonly #find: Sqlite.Statement;
  readonly #insert: Sqlite.Statement;
  readonly #lost: Sqlite.Statement;
  readonly #ofJob: Sqlite.Statement;
  readonly #ofLine: Sqlite.Statement;
  readonly #byName = new Map<string, Subject>();
  readonly #byId = new Map<string, KeyObject>();

  constructor(sqlite: Sqlite.Database, content_key: ContentKey) {
    this.keys = new SubjectKeys(content_key);
    this.#find = sqlite.prepare("select id from subjects where tenant = ? and name_hash = ?").pluck();
    this.#insert = sqlite.prepare("insert into subjects (id, tenant, name_hash, created_at_ms) values (?, ?, ?, ?)");
    this.#lost = sqlite.prepare("update subjects set name_hash = null where id = ?");
    this.#ofJob = sqlite.prepare("select subject from jobs where id = ?").pluck();
    this.#ofLine = sqlite.prepare("select subject from batch_lines where id = ?").pluck();
  }

  /** The subject, made if there is none; inside a transaction, which `committing` or `rolledBack` follows. */
  subject({ tenant, name }: SubjectName): Subject {
    const called = `${tenant}\n${name ?? NAMELESS}`;
    const held = this.#byName.get(called);
    if (held !== undefined) return held;
    const subject = this.#known({ tenant, name }) ?? this.#made({ tenant, name });
    if (this.#byName.size >= HELD_MAX) this.#byName.clear();
    this.#byName.set(called, subject);
    return subject;
  }

  /** The id of a subject that something is kept of. */
  idOf({ tenant, name }: SubjectName): string | undefined {
    return this.#find.get(tenant, this.keys.nameHash(tenant, name ?? NAMELESS)) as string | undefined;
  }

  #known(name: SubjectName): Subject | undefined {
    const id = this.idOf(name);
    const key = id === undefined ? undefined : this.key(id);
    if (id !== undefined && key !== undefined) return { id, key };
    // Its key is not here: what is written from now on is of another.
    if (id !== undefined) this.#lost.run(id);
    return undefined;
  }

  #made({ tenant, name }: SubjectName): Subject {
    // The index of jobs by subject leaves out those of nobody by name: their subjects sort before `sub_`.
    const id = `${name === null ? "all" : "sub"}_${randomBytes(12).toString("base64url")}`;
    this.#insert.run(id, tenant, this.keys.nameHash(tenant, name ?? NAMELESS), Date.now());
    return { id, key: this.keys.make(id) };
  }

  /** Undefined when the subject was erased, or its key is not here. */
  key(subject_id: string): KeyObject | undefined {
    const held = this.#byId.get(subject_id);
    if (held !== undefined) return held;
    const key = this.keys.get(subject_id);
    if (key === undefined) return undefined;
    if (this.#byId.size >= HELD_MAX) this.#byId.clear();
    this.#byId.set(subject_id, key);
    return key;
  }

  /** With which key the content of a job or of a batch's line is sealed. */
  keyOf(row: RowRef): KeyObject | undefined {
    const id = ("job_id" in row ? this.#ofJob.get(row.job_id) : this.#ofLine.get(row.line_id)) as string | null | undefined;
    return id == null ? undefined : this.key(id);
  }

  /** The text of a column; undefined when it can't be read (any more). Text that lies there in clear is from before there were keys. */
  text(subject_id: string | null, column: unknown, bound_to: string): string | undefined {
    if (typeof column === "string") return column;
    const key = subject_id === null ? undefined : this.key(subject_id);
    return key === undefined ? undefined : unseal(key, column as Uint8Array, bound_to)?.toString("utf8");
  }

  committing(): void {
    this.keys.flush();
  }

  rolledBack(): void {
    this.keys.forget();
    this.#byName.clear();
    this.#byId.clear();
  }

  /** After `subjects` says that it is erased: the key is gone for good. */
  destroy(subject_id: string): void {
    this.#byName.clear();
    this.#byId.delete(subject_id);
    this.keys.destroy(subject_id);
  }
}

/** Content in the column of a row; nothing is left as it is. */
export function sealed(key: KeyObject | undefined, text: string, bound_to: string): Buffer | string {
  return key === undefined || text === "" ? "" : seal(key, text, bound_to);
}

/** What the content of a column is bound to: the id of its job, file or line, and what it is there. */
export function boundTo(
  id: string,
  column: "request" | "text" | "said" | `events ${number}` | `line ${number}` | "custom_id" | "output",
): string {
  return `${id} ${column}`;
}
