/** Real programs as real processes, for tests that kill them: random ports, temporary folders, nothing left running. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { readEvents } from "@rbees/contracts/sse";

const packages = fileURLToPath(new URL("../../packages/", import.meta.url));

// biome-ignore lint/suspicious/noExplicitAny: a test looks at answers field by field
export type Json = any;

export interface Program {
  readonly pid: number;
  readonly url: string;
  readonly port: number;
  /** Sends a signal and waits until the process is gone; its exit code, or null when a signal ended it. */
  kill(signal: NodeJS.Signals): Promise<number | null>;
  signal(signal: NodeJS.Signals): void;
  readonly exited: Promise<number | null>;
}

/** A test, or a file of them: `{ after }` of `node:test`. */
export interface Lifetime {
  after(done: () => unknown): void;
}

/** A folder that is removed with the test. */
export function temporaryFolder(t: Lifetime, name: string): string {
  const path = mkdtempSync(join(tmpdir(), `rbees-${name}-`));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export function startOrcd(t: Lifetime, data_dir: string, flags: readonly string[] = []): Promise<Program> {
  return start(t, "orcd", [
    "--data-dir",
    data_dir,
    "--content-key",
    join(data_dir, "content-key"),
    "--tick-ms",
    "20",
    "--retry-backoff-ms",
    "20",
    ...flags,
  ]);
}

export function startWorkerd(t: Lifetime, model: string, orchestrator: string, flags: readonly string[] = []): Promise<Program> {
  return start(t, "workerd", ["--model", model, "--orchestrator", orchestrator, "--threads", "1", ...flags]);
}

async function start(t: Lifetime, room: "orcd" | "workerd", flags: readonly string[]): Promise<Program> {
  const port = flags.includes("--port") ? [] : ["--port", "0"];
  const args = [join(packages, room, "src/main.ts"), ...port, "--log-format", "json", ...flags];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe"] });
  const exited = new Promise<number | null>((resolve) => child.on("exit", resolve));
  t.after(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const url = await readyUrl(child, room);
  return {
    pid: child.pid as number,
    url,
    port: Number(new URL(url).port),
    exited,
    signal: (signal) => void child.kill(signal),
    kill: (signal) => {
      child.kill(signal);
      return exited;
    },
  };
}

function readyUrl(child: ChildProcess, room: string): Promise<string> {
  const log: string[] = [];
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: child.stderr as NodeJS.ReadableStream });
    lines.on("line", (line) => {
      if (log.length < 200) log.push(line);
      if (!line.includes('"msg":"ready"')) return;
      resolve((JSON.parse(line) as { url: string }).url);
    });
    child.on("exit", (code) => reject(new Error(`${room} ended with ${code} before it was ready:\n${log.slice(-10).join("\n")}`)));
  });
}

export async function getJson(url: string): Promise<Json> {
  const answer = await fetch(url, { headers: { accept: "application/json" } });
  return answer.json();
}

export function submit(orchestrator: string, body: Record<string, unknown>, signal?: AbortSignal): Promise<Response> {
  return fetch(`${orchestrator}/v2/tasks`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** The events of a stream as they come. */
export async function* follow(response: Response): AsyncGenerator<Json> {
  if (response.body === null || !response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  for await (const { id, data } of readEvents(response.body as unknown as AsyncIterable<Uint8Array>))
    yield { id: Number(id), ...JSON.parse(data) };
}

export async function textOf(events: AsyncIterable<Json>): Promise<string> {
  let text = "";
  for await (const event of events) if (event.type === "token") text += event.t;
  return text;
}

/** Looks until a fact holds; fails after `ms_max`. */
export async function eventually<T>(look: () => Promise<T | undefined | false> | T | undefined | false, ms_max = 20_000): Promise<T> {
  const deadline = performance.now() + ms_max;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`not so after ${ms_max} ms: ${look}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
