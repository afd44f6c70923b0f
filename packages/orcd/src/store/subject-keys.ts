/**
 * The keys of prompts and answers, one for each subject of each tenant: in a small database of their own, wrapped by the content key, so
 * that no copy of the orchestrator's database can be read by itself. Whoever is erased loses the key here, and every copy of the
 * database has lost the text with it.
 */
import { createHmac, createSecretKey, hkdfSync, type KeyObject, randomBytes } from "node:crypto";
import { chmodSync, existsSync } from "node:fs";
import { RbeesError } from "@rbees/contracts/errors";
import Sqlite from "better-sqlite3";
import { seal, unseal } from "./seal.ts";

/** What the store needs to read and write content. */
export interface ContentKey {
  /** 256 random bits, base64. */
  readonly master: string;
  /** The file of the subjects' keys. */
  readonly subjects_file: string;
}

const KEY_BYTES = 32;
/** Says, unwrapped, that the content key is the one that the others were wrapped with. */
const CHECK = "check";

export class SubjectKeys {
  readonly #sqlite: Sqlite.Database;
  readonly #wrap: KeyObject;
  readonly #names: KeyObject;
  readonly #select: Sqlite.Statement;
  readonly #insert: Sqlite.Statement;
  readonly #delete: Sqlite.Statement;

  constructor({ master, subjects_file }: ContentKey) {
    const bytes = Buffer.from(master, "base64");
    const derived = (what: string) => createSecretKey(Buffer.from(hkdfSync("sha256", bytes, "", `rbees content ${what}`, KEY_BYTES)));
    [this.#wrap, this.#names] = [derived("keys"), derived("names")];
    const made = !existsSync(subjects_file);
    this.#sqlite = new Sqlite(subjects_file, { timeout: 5000 });
    if (made) chmodSync(subjects_file, 0o600);
    this.#sqlite.pragma("journal_mode = TRUNCATE");
    this.#sqlite.pragma("synchronous = EXTRA");
    // What is destroyed is overwritten.
    this.#sqlite.pragma("secure_delete = ON");
    this.#sqlite.exec("create table if not exists keys (id text primary key, wrapped blob not null) without rowid");
    this.#select = this.#sqlite.prepare("select wrapped from keys where id = ?").pluck();
    this.#insert = this.#sqlite.prepare("insert into keys (id, wrapped) values (?, ?) on conflict do nothing");
    this.#delete = this.#sqlite.prepare("delete from keys where id = ?");
    this.#check(subjects_file);
  }

  #check(file: string): void {
    this.#insert.run(CHECK, seal(this.#wrap, CHECK, CHECK));
    if (unseal(this.#wrap, this.#select.get(CHECK) as Buffer, CHECK) !== undefined) return;
    this.#sqlite.close();
    throw new RbeesError(
      "CONFLICT",
      `The keys in ${file} were made with another content key. Restore that one; or move ${file} away, and no prompt and no answer that is kept can be read any more.`,
    );
  }

  /** What a subject is looked up by: says nothing of its name to whoever has not the content key. */
  nameHash(tenant: string, name: string): string {
    return createHmac("sha256", this.#names).update(`${tenant}\n${name}`).digest("base64url");
  }

  /** Undefined when it was destroyed, or lies elsewhere. */
  get(id: string): KeyObject | undefined {
    const wrapped = this.#select.get(id) as Buffer | undefined;
    const bytes = wrapped === undefined ? undefined : unseal(this.#wrap, wrapped, id);
    return bytes === undefined ? undefined : createSecretKey(bytes);
  }

  /** A new key; durable with `flush`. */
  make(id: string): KeyObject {
    if (!this.#sqlite.inTransaction) this.#sqlite.exec("begin immediate");
    const bytes = randomBytes(KEY_BYTES);
    this.#insert.run(id, seal(this.#wrap, bytes, id));
    return createSecretKey(bytes);
  }

  /** Before anything that was sealed with a new key is durable, so that there is nothing that can't be read. */
  flush(): void {
    if (this.#sqlite.inTransaction) this.#sqlite.exec("commit");
  }

  forget(): void {
    if (this.#sqlite.inTransaction) this.#sqlite.exec("rollback");
  }

  destroy(id: string): void {
    this.#delete.run(id);
  }

  close(): void {
    this.#sqlite.close();
  }
}
