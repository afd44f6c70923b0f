/** The files of one worker in the state folder of its host: what the program that started it and the worker itself know of each other. */
import { join } from "node:path";
import type { Home } from "./home.ts";

export function workerFolder({ state }: Pick<Home, "state">): string {
  return join(state, "workers");
}

/**
 * `json`: its record. `door`: what its callers show it. `credential`: what it shows the orchestrator. `join`: the token with which it
 * gets one.
 */
export function workerFile(folder: string, worker_id: string, kind: "json" | "door" | "credential" | "join"): string {
  return join(folder, `${workerFileName(worker_id)}.${kind}`);
}

/** A colon is part of many ids and of no Windows file name. */
export function workerFileName(worker_id: string): string {
  return worker_id.replaceAll(":", "%3A");
}
