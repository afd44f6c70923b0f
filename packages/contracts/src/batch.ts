/** OpenAI's files and batches: many requests in one file, answered while nobody waits. */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { WIRE_LIMITS } from "./job.ts";
import { BATCH_ENDPOINTS } from "./sets.ts";

/** A file as it came in a form. */
export interface UploadedFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

const Uploaded = z
  .custom<UploadedFile>((value) => typeof value === "object" && value !== null && "bytes" in value, "must be a file")
  .meta({ type: "string", format: "binary" });

const FILE_FIELDS = {
  supported: {
    file: Uploaded.describe("JSON Lines, one request a line; at most `batch_file_bytes_max` bytes"),
    purpose: z.literal("batch", "must be batch: files are taken for batches only").describe("Only `batch`"),
    "expires_after[anchor]": z.literal("created_at").optional().describe("Only `created_at`"),
    "expires_after[seconds]": z.coerce
      .number()
      .int()
      .min(3600)
      .max(2_592_000)
      .optional()
      .describe("The file goes after so long; `batch_file_keep_ms` when not given"),
  },
  hints: {},
  refused: {},
} as const satisfies FieldTable;

const BATCH_CREATE_FIELDS = {
  supported: {
    input_file_id: z.string().min(1).max(128).describe("A file with `custom_id`, `method`, `url` and `body` in each line"),
    endpoint: z.enum(BATCH_ENDPOINTS).describe("The `url` of every line"),
    completion_window: z.literal("24h", "must be 24h").describe("Only `24h`: what has no answer by then gets none"),
    metadata: may(
      z
        .record(z.string().max(64), z.string().max(512))
        .refine(
          (data) => Object.keys(data).length <= WIRE_LIMITS.metadata_keys_max,
          `must have at most ${WIRE_LIMITS.metadata_keys_max} keys`,
        ),
      "Kept with the batch",
    ),
  },
  hints: {},
  refused: { output_expires_after: refused("answers stay as long as `batch_file_keep_ms` says") },
} as const satisfies FieldTable;

/** For the page: where a field is sent → what becomes of it. */
export const BATCH_FIELDS = { "POST /v1/files": FILE_FIELDS, "POST /v1/batches": BATCH_CREATE_FIELDS } as const satisfies Record<
  string,
  FieldTable
>;

export const CreateFile = z.strictObject(FILE_FIELDS.supported).meta({ id: "CreateFileRequest" });
export const CreateBatch = z
  .strictObject({ ...BATCH_CREATE_FIELDS.supported, ...BATCH_CREATE_FIELDS.refused })
  .meta({ id: "CreateBatchRequest" });
export type CreateBatch = z.infer<typeof CreateBatch>;

const seconds = z.int().nonnegative();

export const FileObject = z
  .object({
    id: z.string(),
    object: z.literal("file"),
    bytes: z.int().nonnegative(),
    created_at: seconds,
    expires_at: seconds.optional(),
    filename: z.string(),
    purpose: z.enum(["batch", "batch_output"]),
    status: z.literal("processed"),
  })
  .meta({ id: "File" });
export type FileObject = z.infer<typeof FileObject>;

const page = { has_more: z.boolean(), first_id: z.string().nullable(), last_id: z.string().nullable() };

export const FileList = z.object({ object: z.literal("list"), data: z.array(FileObject), ...page }).meta({ id: "FileList" });
export const FileDeleted = z.object({ id: z.string(), object: z.literal("file"), deleted: z.literal(true) }).meta({ id: "FileDeleted" });
export const ListFiles = z.strictObject({
  purpose: z.enum(["batch", "batch_output"]).optional(),
  limit: z.coerce.number().int().min(1).max(10_000).default(1000),
  order: z.enum(["asc", "desc"]).default("desc").describe("By the time of their making"),
  after: z.string().max(128).optional().describe("The `last_id` of the page before"),
});
export type ListFiles = z.infer<typeof ListFiles>;

export const BATCH_STATUSES = [
  "validating",
  "failed",
  "in_progress",
  "finalizing",
  "completed",
  "expired",
  "cancelling",
  "cancelled",
] as const;
export type BatchStatus = (typeof BATCH_STATUSES)[number];

/** What is wrong with an input file. */
export const BatchProblem = z.object({
  code: z.string(),
  message: z.string(),
  param: z.string().nullable(),
  line: z.int().positive().nullable(),
});
export type BatchProblem = z.infer<typeof BatchProblem>;

const at = seconds.nullable();

export const BatchObject = z
  .object({
    id: z.string(),
    object: z.literal("batch"),
    endpoint: z.string(),
    errors: z.object({ object: z.literal("list"), data: z.array(BatchProblem) }).nullable(),
    input_file_id: z.string(),
    completion_window: z.string(),
    status: z.enum(BATCH_STATUSES),
    output_file_id: z.string().nullable(),
    error_file_id: z.string().nullable(),
    created_at: seconds,
    in_progress_at: at,
    expires_at: at,
    finalizing_at: at,
    completed_at: at,
    failed_at: at,
    expired_at: at,
    cancelling_at: at,
    cancelled_at: at,
    request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }),
    metadata: z.record(z.string(), z.string()).nullable(),
  })
  .meta({ id: "Batch" });
export type BatchObject = z.infer<typeof BatchObject>;

export const BatchList = z.object({ object: z.literal("list"), data: z.array(BatchObject), ...page }).meta({ id: "BatchList" });
export const ListBatches = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  after: z.string().max(128).optional().describe("The `last_id` of the page before"),
});
export type ListBatches = z.infer<typeof ListBatches>;
