/** An orchestrator of this process on a random port and a temporary folder, and what a client of it does. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readEvents } from "@rbees/contracts/sse";
import { loadConfig } from "@rbees/kit/config";
import { type Log, silentLog } from "@rbees/kit/log";
import type { Lifetime } from "../../../test/support/cluster.ts";
import { type FakeWorker, startFakeWorker } from "../../../test/support/fake-worker.ts";
import { type OrcdConfig, settings } from "../src/config.ts";
import { createOrcd, type Orcd } from "../src/orcd.ts";

export interface Harness {
  readonly url: string;
  readonly data_dir: string;
  readonly orcd: Orcd;
  /** A fake worker that has registered. */
  worker(id: string, more?: Record<string, unknown>): Promise<FakeWorker>;
  submit(body: Record<string, unknown>, headers?: Record<string, string>): Promise<Response>;
  get(path: string, headers?: Record<string, string>): Promise<Response>;
  json(path: string): Promise<Json>;
}

// biome-ignore lint/suspicious/noExplicitAny: a test looks at answers field by field
export type Json = any;

export async function startHarness(
  context: Lifetime,
  overrides: Partial<OrcdConfig> = {},
  data_dir?: string,
  log: Log = silentLog(),
): Promise<Harness> {
  const folder = data_dir ?? mkdtempSync(join(tmpdir(), "rbees-orcd-"));
  let stop = async () => {};
  context.after(async () => {
    await stop();
    if (data_dir === undefined) rmSync(folder, { recursive: true, force: true });
  });
  const { config } = loadConfig(settings, { section: "orcd", argv: ["--port", "0"], env: {} });
  const orcd = await createOrcd(
    { ...config, tick_ms: 10, retry_backoff_ms: 5, worker_inhibit_ms: 20, drain_ms: 50, ...overrides },
    {
      log,
      data_dir: folder,
      audit_key: join(folder, "audit-key.pem"),
      content_key: join(folder, "content-key"),
      fatal: () => {},
    },
  );
  const workers: FakeWorker[] = [];
  stop = async () => {
    await orcd.stop();
    for (const worker of workers) await worker.close();
  };
  const { url } = orcd;
  const get = (path: string, headers: Record<string, string> = {}) => fetch(url + path, { headers });
  return {
    url,
    data_dir: folder,
    orcd,
    get,
    json: async (path) => (await get(path, { accept: "application/json" })).json(),
    async worker(id, more) {
      const worker = await startFakeWorker(id, (more?.["model"] as string | undefined) ?? "fake");
      workers.push(worker);
      const answer = await worker.register(url, { slots: 1, ...more });
      if (!answer.ok) throw new Error(`registration refused: ${await answer.text()}`);
      return worker;
    },
    submit: (body, headers = {}) =>
      fetch(`${url}/v2/tasks`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify({ model: "fake", prompt: "hi", ...body }),
      }),
  };
}

/** All events of a stream, as objects with their ids; or those up to where `enough` says so, and then the reader leaves. */
export async function eventsOf(response: Response, enough: (events: Json[]) => boolean = () => false): Promise<Json[]> {
  const events: Json[] = [];
  if (response.body === null) return events;
  for await (const { id, data } of readEvents(response.body as unknown as AsyncIterable<Uint8Array>)) {
    events.push({ id: Number(id), ...JSON.parse(data) });
    if (enough(events)) break;
  }
  return events;
}

/** Looks until a fact holds; fails after `ms_max`. */
export async function eventually<T>(look: () => Promise<T | undefined | false> | T | undefined | false, ms_max = 5000): Promise<T> {
  const deadline = performance.now() + ms_max;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`not so after ${ms_max} ms: ${look}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
