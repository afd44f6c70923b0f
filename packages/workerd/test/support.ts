/** What the worker's tests share: models made on the spot, a worker on a random port, and a reader of its streams. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import type { EndEvent, FailedEvent, TokenEvent, WorkerEvent } from "@rbees/contracts/events";
import { readEvents } from "@rbees/contracts/sse";
import type { WorkerHealth } from "@rbees/contracts/worker";
import { environment, loadConfig } from "@rbees/kit/config";
import { silentLog } from "@rbees/kit/log";
import { type Script, writeScriptedModel } from "../../../models/fixtures/scripted.ts";
import { workerdSettings } from "../src/config.ts";
import { createWorkerd, type Workerd, type WorkerdHooks } from "../src/workerd.ts";

/** A folder that goes away with the tests of a file. */
export const folder = mkdtempSync(join(tmpdir(), "rbees-workerd-"));
const workers: Workerd[] = [];
after(async () => {
  await Promise.all(workers.map((worker) => worker.stop()));
  rmSync(folder, { recursive: true, force: true });
});

export function scripted(name: string, script: Script): string {
  const path = join(folder, `${name}.gguf`);
  writeScriptedModel(path, script);
  return path;
}

export function testConfig(flags: Record<string, string | number | true>) {
  const given: Record<string, string | number | true> = { port: 0, threads: 1, slots: 2, orchestrator: "none", drain_ms: 2_000, ...flags };
  const argv = Object.entries(given).flatMap(([name, value]) => {
    const flag = `--${name.replaceAll("_", "-")}`;
    return value === true ? [flag] : [flag, String(value)];
  });
  return loadConfig(workerdSettings, { section: "workerd", argv, env: {} }).config;
}

/** A worker that is stopped with the file's tests. */
export async function startWorker(flags: Record<string, string | number | true>, hooks: Partial<WorkerdHooks> = {}): Promise<Workerd> {
  const worker = await createWorkerd(testConfig(flags), silentLog(), environment(), { on_shutdown() {}, on_fatal() {}, ...hooks });
  workers.push(worker);
  return worker;
}

export type Body = Record<string, unknown>;

/** An open stream: events as they come, and a way to hang up. */
export interface Stream {
  events: AsyncGenerator<WorkerEvent>;
  next(): Promise<WorkerEvent | undefined>;
  hangUp(): void;
}

export async function post(worker: Workerd, path: string, body: Body, signal?: AbortSignal): Promise<Response> {
  return await fetch(`${worker.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

export async function open(worker: Workerd, body: Body): Promise<Stream> {
  const connection = new AbortController();
  const response = await post(worker, "/execute", { job_id: "job-1", ...body }, connection.signal);
  if (!response.ok || response.body === null) throw new Error(`${response.status}: ${await response.text()}`);
  const source = readEvents(response.body as unknown as AsyncIterable<Uint8Array>);
  async function* parse(): AsyncGenerator<WorkerEvent> {
    for await (const { data } of source) yield JSON.parse(data) as WorkerEvent;
  }
  const events = parse();
  return { events, next: async () => (await events.next()).value as WorkerEvent | undefined, hangUp: () => connection.abort() };
}

export interface Answer {
  text: string;
  tokens: TokenEvent[];
  ids: number[];
  end: EndEvent | undefined;
  error: FailedEvent | undefined;
  events: WorkerEvent[];
}

/** Runs a request to its end. */
export async function ask(worker: Workerd, body: Body): Promise<Answer> {
  return await collect((await open(worker, body)).events);
}

export async function collect(source: AsyncIterable<WorkerEvent>): Promise<Answer> {
  const events: WorkerEvent[] = [];
  for await (const event of source) events.push(event);
  const tokens = events.filter((event): event is TokenEvent => event.type === "token");
  return {
    events,
    tokens,
    text: tokens.map(({ t }) => t).join(""),
    ids: tokens.flatMap(({ ids }) => ids),
    end: events.find((event): event is EndEvent => event.type === "end"),
    error: events.find((event): event is FailedEvent => event.type === "error"),
  };
}

export async function health(worker: Workerd): Promise<WorkerHealth> {
  return (await (await fetch(`${worker.url}/health`)).json()) as WorkerHealth;
}

/** Waits until a fact holds; how long that took. */
export async function until(fact: () => Promise<boolean> | boolean, within_ms = 10_000): Promise<number> {
  const began = performance.now();
  while (!(await fact())) {
    if (performance.now() - began > within_ms) throw new Error(`not so within ${within_ms} ms: ${fact}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return performance.now() - began;
}
