/** What is read of files and batches. */
import type { BatchLineTable, BatchTable, FileTable } from "./batch-schema.ts";

/** A file without its content. */
export type FileRow = FileTable;

export interface PageQuery {
  /** Undefined: of all. */
  tenant?: string | undefined;
  purpose?: string | undefined;
  order: "asc" | "desc";
  /** The id that the page comes after. */
  after?: string | undefined;
  limit: number;
}

export interface LineQuery {
  batch_id: string;
  /** Those without an answer; those with one; those with an error. */
  which: "waiting" | "answers" | "errors";
  /** The line that these come after. */
  after: number;
  limit: number;
}

/** When files are over their time: at their own end, or so long after the end of the batches that asked or answered them. */
export interface FileRetention {
  now_ms: number;
  keep_ms: number;
  /** Tenants of which another time was said. */
  of_tenant: Readonly<Record<string, number>>;
}

export interface LineCounts {
  total: number;
  completed: number;
  failed: number;
  /** Of the output file and of the error file, as far as they are written. */
  output_bytes: number;
  error_bytes: number;
}

export interface BatchReads {
  listFiles(query: PageQuery): Promise<FileRow[]>;
  showFile(id: string): Promise<FileRow | undefined>;
  /** With as many lines as it ever had: where one is gone with its subject, it says so. */
  fileContent(id: string): Promise<string>;
  /** Of all files together. */
  fileBytes(): Promise<number>;
  /** Some of them. */
  expiredFiles(retention: FileRetention): Promise<FileRow[]>;
  listBatches(query: PageQuery): Promise<BatchTable[]>;
  showBatch(id: string): Promise<BatchTable | undefined>;
  /** Those that have not ended, the oldest first. */
  liveBatches(): Promise<BatchTable[]>;
  /** A line whose subject is gone has an empty request, and an output that says so if it has one. */
  batchLines(query: LineQuery): Promise<BatchLineTable[]>;
  countLines(batch_id: string): Promise<LineCounts>;
}
