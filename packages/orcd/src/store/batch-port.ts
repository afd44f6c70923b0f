/** What is read of files and batches. */
import type { BatchLineTable, BatchTable, FileTable } from "./batch-schema.ts";

/** A file without its content. */
export type FileRow = Omit<FileTable, "content">;

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
  fileContent(id: string): Promise<string>;
  /** Of all files together. */
  fileBytes(): Promise<number>;
  expiredFiles(now_ms: number): Promise<FileRow[]>;
  listBatches(query: PageQuery): Promise<BatchTable[]>;
  showBatch(id: string): Promise<BatchTable | undefined>;
  /** Those that have not ended, the oldest first. */
  liveBatches(): Promise<BatchTable[]>;
  batchLines(query: LineQuery): Promise<BatchLineTable[]>;
  countLines(batch_id: string): Promise<LineCounts>;
}
