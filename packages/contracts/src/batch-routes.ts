/** The routes of OpenAI's files and batches. */
import { BatchList, BatchObject, CreateBatch, CreateFile, FileDeleted, FileList, FileObject, ListBatches, ListFiles } from "./batch.ts";
import type { RouteTable } from "./route.ts";

export const batchRoutes = {
  createFile: {
    method: "POST",
    path: "/v1/files",
    summary: "OpenAI: a file with the requests of a batch",
    form: true,
    body: CreateFile,
    replies: { 200: [FileObject] },
  },
  listFiles: { method: "GET", path: "/v1/files", summary: "OpenAI: files", query: ListFiles, replies: { 200: [FileList] } },
  showFile: { method: "GET", path: "/v1/files/{id}", summary: "OpenAI: one file, without its content", replies: { 200: [FileObject] } },
  fileContent: { method: "GET", path: "/v1/files/{id}/content", summary: "OpenAI: a file's content", replies: { 200: ["text"] } },
  deleteFile: { method: "DELETE", path: "/v1/files/{id}", summary: "OpenAI: a file goes", replies: { 200: [FileDeleted] } },
  createBatch: {
    method: "POST",
    path: "/v1/batches",
    summary: "OpenAI: the requests of a file are answered one by one, while nobody waits",
    body: CreateBatch,
    replies: { 200: [BatchObject] },
  },
  listBatches: {
    method: "GET",
    path: "/v1/batches",
    summary: "OpenAI: batches, newest first",
    query: ListBatches,
    replies: { 200: [BatchList] },
  },
  showBatch: { method: "GET", path: "/v1/batches/{id}", summary: "OpenAI: one batch", replies: { 200: [BatchObject] } },
  cancelBatch: {
    method: "POST",
    path: "/v1/batches/{id}/cancel",
    summary: "OpenAI: what has no answer yet gets none; what has one stays",
    replies: { 200: [BatchObject] },
  },
} as const satisfies RouteTable;
