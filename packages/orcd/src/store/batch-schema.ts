/** The tables of files and batches. What people wrote is sealed in them (`seal.ts`), line by line with the key of whom it is of. */
import { type Kysely, sql } from "kysely";
import type { Migration } from "kysely/migration";

/** A file of OpenAI's API. Of the answers of a batch it is only named here: their content is the batch's lines. */
export interface FileTable {
  id: string;
  tenant: string;
  /** The key with which it was uploaded, or its batch made; null when nobody was asked. */
  key_id: string | null;
  filename: string;
  purpose: string;
  bytes: number;
  created_at_ms: number;
  expires_at_ms: number | null;
  /** The batch whose answers or errors these are. */
  batch_id: string | null;
}

/** Some lines of an uploaded file, next to each other and of one subject. What comes after the last line break is a part of its own. */
export interface FilePartTable {
  file_id: string;
  /** The number of its first line, from 1. */
  line: number;
  /** Lines with their ends; 0: one line without. */
  lines: number;
  /** As it is given out. */
  bytes: number;
  /** On disk it is sealed; empty: its subject was erased. */
  content: string;
}

export interface BatchTable {
  id: string;
  tenant: string;
  /** The key with which it was made; its lines are asked with that one. */
  key_id: string | null;
  endpoint: string;
  input_file_id: string;
  status: string;
  output_file_id: string | null;
  error_file_id: string | null;
  /** JSON of the problems of its input. */
  problems: string | null;
  /** JSON of what its client keeps with it. */
  metadata: string | null;
  created_at_ms: number;
  in_progress_at_ms: number | null;
  expires_at_ms: number;
  finalizing_at_ms: number | null;
  cancelling_at_ms: number | null;
  /** When it was completed, failed, expired or cancelled, as its status says. */
  ended_at_ms: number | null;
  total: number;
  completed: number;
  failed: number;
}

/** One request of a batch. */
export interface BatchLineTable {
  /** The batch's id and the line's number. */
  id: string;
  batch_id: string;
  line: number;
  /** Empty once the batch has ended. On disk it is sealed, as are the next two. */
  custom_id: string;
  /** The body that is asked with; empty once the batch has ended, or when its subject was erased. */
  request: string;
  /** The line of the output or error file; null while there is no answer, empty when its subject was erased. */
  output: string | null;
  /** Of the output as it is given out, without its line break. */
  output_bytes: number;
  /** 1: an answer, 0: an error. */
  ok: number | null;
}

export const batches: Migration = {
  async up(db: Kysely<never>) {
    await sql`create table files (
      seq integer primary key, id text not null unique, tenant text not null, filename text not null, purpose text not null,
      bytes bigint not null, created_at_ms bigint not null, expires_at_ms bigint, batch_id text, content text)`.execute(db);
    await sql`create table batches (
      seq integer primary key, id text not null unique, tenant text not null, key_id text, endpoint text not null,
      input_file_id text not null, status text not null, output_file_id text, error_file_id text, problems text, metadata text,
      created_at_ms bigint not null, in_progress_at_ms bigint, expires_at_ms bigint not null, finalizing_at_ms bigint,
      cancelling_at_ms bigint, ended_at_ms bigint, total integer not null, completed integer not null, failed integer not null)`.execute(
      db,
    );
    await sql`create table batch_lines (
      id text primary key, batch_id text not null, line integer not null, custom_id text not null, request text not null,
      output text, ok integer)`.execute(db);
    await sql`create index batch_lines_of on batch_lines (batch_id, line)`.execute(db);
    await sql`create index batches_unfinished on batches (seq) where ended_at_ms is null`.execute(db);
  },
};

/** What is in files and batches is sealed. What lies there in clear is sealed by `seal-clear.ts`. */
export const sealedFiles: Migration = {
  async up(db: Kysely<never>) {
    await sql`create table file_parts (
      seq integer primary key, file_id text not null, line integer not null, lines integer not null, bytes bigint not null,
      content text not null, subject text not null, unique (file_id, line))`.execute(db);
    // `subjects.ts` names the same condition.
    await sql`create index file_parts_of_subject on file_parts (subject, seq) where subject > 'sub_'`.execute(db);
    await sql`alter table batch_lines add column subject text`.execute(db);
    await sql`alter table batch_lines add column output_bytes bigint not null default 0`.execute(db);
    await sql`create index batch_lines_of_subject on batch_lines (subject) where subject > 'sub_'`.execute(db);
    await sql`create index batches_of_file on batches (input_file_id)`.execute(db);
  },
};

export const fileKeys: Migration = {
  async up(db: Kysely<never>) {
    await sql`alter table files add column key_id text`.execute(db);
  },
};
