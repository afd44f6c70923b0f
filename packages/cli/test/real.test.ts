/** The command line with the real programs and the real model, once through. Left out where one of them is missing. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { JobEvent } from "@rbees/contracts/events";
import { JobView } from "@rbees/contracts/job";
import { PoolWorkers } from "@rbees/contracts/pool";
import { bench, freePort, REAL } from "./harness.ts";

const missing = [REAL.orcd.at(-1), REAL.workerd.at(-1), REAL.demo_model].find((path) => !existsSync(path ?? ""));

test("up, a job, its record, infer, Ctrl-C, drain, logs, down", {
  skip: missing === undefined ? false : `there is no ${missing}`,
}, async (t) => {
  const { run } = await bench((clean) => t.after(clean), REAL);
  const [port, worker_port] = [await freePort(), await freePort()];
  const up = await run([
    "rbees",
    "up",
    "--port",
    String(port),
    "--worker-port",
    String(worker_port),
    "--slots",
    "2",
    "--ctx",
    "512",
    "--json",
  ]);
  assert.equal(up.exit, 0, up.err);
  const { worker } = JSON.parse(up.out);
  assert.deepEqual([worker.status, worker.slots], ["ready", 2]);

  const submit = ["rbees", "jobs", "submit", "--model", "demo", "--prompt", "Write a haiku about Rust", "--seed", "1"];
  const text = await run(submit);
  assert.equal(text.exit, 0, text.err);
  assert.ok(text.out.trim().length > 10);
  const json = await run([...submit, "--json"]);
  const events = json.out
    .trimEnd()
    .split("\n")
    .map((line) => JobEvent.parse(JSON.parse(line)));
  assert.equal(events.at(-1)?.type, "end");
  const [queued] = events;
  assert.ok(queued?.type === "queued");
  const job = JobView.parse(JSON.parse((await run(["rbees", "jobs", "show", queued.job_id, "--json"])).out));
  const streamed = events.map((event) => (event.type === "token" ? event.t : "")).join("");
  assert.equal(job.text, streamed);
  assert.equal((await run(["rbees", "jobs", "follow", queued.job_id])).out.trimEnd(), streamed.trimEnd());
  assert.equal((await run(["rbees", "infer", "--worker", `localhost:${worker_port}`, "--prompt", "Hi", "--max-tokens", "5"])).exit, 0);

  const stop = new AbortController();
  const long = [
    "rbees",
    "jobs",
    "submit",
    "--model",
    "demo",
    "--prompt",
    "the",
    "--raw",
    "--temperature",
    "2",
    "--top-k",
    "1000",
    "--max-tokens",
    "450",
  ];
  const interrupted = await run(long, { signal: stop.signal, onErr: () => {}, onOut: () => stop.abort() });
  assert.equal(interrupted.exit, 130);

  assert.equal((await run(["rbees", "jobs", "submit", "--model", "nobody", "--prompt", "Hi"])).exit, 6);
  const { workers } = PoolWorkers.parse(JSON.parse((await run(["rbees-pool", "worker", "list", "--json"])).out));
  assert.equal(workers.length, 1);
  assert.match((await run(["rbees-pool", "worker", "logs", worker.worker_id])).out, /registered/);
  assert.equal((await run(["rbees", "workers", "drain", worker.worker_id])).exit, 0);
  const down = await run(["rbees", "down"]);
  assert.equal(down.exit, 0);
  assert.match(down.out, /^worker .* ended\norchestrator .* ended\n$/);
});
