/** OpenAI's files and batches. */
import type { BatchObject, CreateBatch } from "@rbees/contracts/batch";
import { RbeesError } from "@rbees/contracts/errors";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { EventStream, StreamForm } from "@rbees/kit/event-stream";
import type { Handlers } from "@rbees/kit/http";
import type { Batches } from "../batches.ts";
import { type Asked, callerOf } from "../caller.ts";
import { type Files, fileObject, linesOfFile, seconds } from "../files.ts";
import { mintId } from "../job-id.ts";
import { auditChange } from "../record.ts";
import { shuttingDown } from "../shutting-down.ts";
import type { FileRow } from "../store/batch-port.ts";
import type { BatchTable } from "../store/batch-schema.ts";
import type { Store } from "../store/port.ts";

type BatchRoutes = Pick<
  typeof orcdRoutes,
  "createFile" | "listFiles" | "showFile" | "fileContent" | "deleteFile" | "createBatch" | "listBatches" | "showBatch" | "cancelBatch"
>;

export interface BatchApiPorts {
  readonly store: Store;
  readonly files: Files;
  readonly batches: Batches;
  readonly stopping: () => boolean;
  readonly batch_window_ms: number;
  readonly batches_live_max: number;
}

const LINES: StreamForm = { content_type: "application/jsonl; charset=utf-8", ping: undefined };
const LINES_A_READ = 100;

export function batchHandlers(ports: BatchApiPorts): Handlers<BatchRoutes> {
  const { store, files, batches } = ports;
  const find = async (id: string, asker: Asked): Promise<BatchTable> => {
    const { tenant, everywhere } = callerOf(asker);
    const row = await store.showBatch(id);
    if (row === undefined || !(everywhere || row.tenant === tenant))
      throw new RbeesError("NOT_FOUND", `There is no batch ${id.slice(0, 64)}. GET /v1/batches lists the batches.`);
    // The row is written when something ends; what runs knows more.
    return batches.row(id) ?? row;
  };
  return {
    async createFile({ body, ...asker }) {
      return { json: await files.upload(body.file, body["expires_after[seconds]"], callerOf(asker)) };
    },
    async listFiles({ query, ...asker }) {
      return { json: page((await files.list(query, callerOf(asker))).map(fileObject), query.limit) };
    },
    async showFile({ params, ...asker }) {
      return { json: fileObject(await files.find(params.id, callerOf(asker))) };
    },
    async fileContent({ params, who, principal }) {
      const row = await files.find(params.id, callerOf({ principal }));
      await files.disclose(row, who);
      if (row.batch_id === null) return { text: await files.content(row.id), content_type: LINES.content_type };
      return { events: (stream) => void sendLines(store, stream, row).catch(() => stream.cut()), form: LINES };
    },
    async deleteFile({ params, who, principal }) {
      await files.find(params.id, callerOf({ principal }));
      await files.remove(params.id, who);
      return { json: { id: params.id, object: "file", deleted: true } };
    },
    async createBatch({ body, ...asker }) {
      return { json: batchObject(await create(ports, body, asker)) };
    },
    async listBatches({ query, ...asker }) {
      const { tenant, everywhere } = callerOf(asker);
      const { after, limit } = query;
      const rows = await store.listBatches({ tenant: everywhere ? undefined : tenant, order: "desc", after, limit: limit + 1 });
      return {
        json: page(
          rows.map((row) => batchObject(batches.row(row.id) ?? row)),
          limit,
        ),
      };
    },
    showBatch: async ({ params, ...asker }) => ({ json: batchObject(await find(params.id, asker)) }),
    async cancelBatch({ params, who, principal }) {
      const { status } = await find(params.id, { principal });
      if (["completed", "failed", "expired"].includes(status))
        throw new RbeesError("CONFLICT", `The batch is ${status}: there is nothing left to cancel.`);
      await batches.cancel(params.id, who);
      return { json: batchObject(await find(params.id, { principal })) };
    },
  };
}

async function create({ files, batches, stopping, ...limits }: BatchApiPorts, body: CreateBatch, asker: Asked) {
  if (stopping()) throw shuttingDown();
  const { tenant, key_id, ...caller } = callerOf(asker);
  const file = await files.find(body.input_file_id, { tenant, key_id, ...caller });
  // Its lines are of its tenant's subjects, whoever else may see them.
  if (file.tenant !== tenant)
    throw new RbeesError("INVALID_REQUEST", `input_file_id: is a file of tenant ${file.tenant}; ask with one of its keys`, {
      param: "input_file_id",
    });
  if (file.purpose !== "batch")
    throw new RbeesError("INVALID_REQUEST", "input_file_id: is a file of answers, not of requests", { param: "input_file_id" });
  if (batches.size >= limits.batches_live_max) {
    throw new RbeesError("RATE_LIMITED", `${batches.size} batches have not ended, as many as may be (batches_live_max).`, {
      retry_after_ms: 60_000,
    });
  }
  // Its lines are kept beside it until it ends.
  files.checkRoom(file.bytes);
  const now_ms = Date.now();
  const row: BatchTable = {
    ...{ id: `batch_${mintId(now_ms)}`, tenant, key_id, endpoint: body.endpoint, input_file_id: file.id, status: "validating" },
    ...{ output_file_id: null, error_file_id: null, problems: null, metadata: body.metadata ? JSON.stringify(body.metadata) : null },
    ...{ created_at_ms: now_ms, in_progress_at_ms: null, expires_at_ms: now_ms + limits.batch_window_ms, finalizing_at_ms: null },
    ...{ cancelling_at_ms: null, ended_at_ms: null, total: 0, completed: 0, failed: 0 },
  };
  const said = { batch_id: row.id, tenant, endpoint: row.endpoint, input_file_id: file.id };
  await batches.add(row, auditChange("batch.created", said, { now_ms, who: caller.who }));
  return row;
}

/** The lines of a batch that are the content of one of its files. */
async function sendLines(store: Store, stream: EventStream, file: FileRow): Promise<void> {
  const which = linesOfFile(file);
  let wake = () => {};
  stream.onDrain(() => wake());
  stream.onClose(() => wake());
  for (let after = 0; !stream.closed; ) {
    const lines = await store.batchLines({ batch_id: file.batch_id as string, which, after, limit: LINES_A_READ });
    const text = lines.map(({ output }) => `${output}\n`).join("");
    const drained = new Promise<void>((resolve) => {
      wake = resolve;
    });
    if (text !== "" && !stream.writeText(text) && !stream.closed) await drained;
    if (lines.length < LINES_A_READ) {
      // Deleted meanwhile: there may have been more.
      if ((await store.showFile(file.id)) === undefined) return stream.cut();
      return stream.end();
    }
    after = lines.at(-1)?.line ?? after;
  }
}

function page<T extends { id: string }>(rows: T[], limit: number) {
  const data = rows.slice(0, limit);
  const ends = { first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null };
  return { object: "list" as const, data, has_more: rows.length > limit, ...ends };
}

function batchObject(row: BatchTable): BatchObject {
  const at = (ms: number | null) => (ms === null ? null : seconds(ms));
  const ended = (status: string) => (row.status === status ? at(row.ended_at_ms) : null);
  return {
    ...{ id: row.id, object: "batch", endpoint: row.endpoint, input_file_id: row.input_file_id, completion_window: "24h" },
    errors: row.problems === null ? null : { object: "list", data: JSON.parse(row.problems) },
    status: row.status as BatchObject["status"],
    ...{ output_file_id: row.output_file_id, error_file_id: row.error_file_id },
    ...{ created_at: seconds(row.created_at_ms), in_progress_at: at(row.in_progress_at_ms), expires_at: at(row.expires_at_ms) },
    ...{ finalizing_at: at(row.finalizing_at_ms), completed_at: ended("completed"), failed_at: ended("failed") },
    ...{ expired_at: ended("expired"), cancelling_at: at(row.cancelling_at_ms), cancelled_at: ended("cancelled") },
    request_counts: { total: row.total, completed: row.completed, failed: row.failed },
    metadata: row.metadata === null ? null : JSON.parse(row.metadata),
  };
}
