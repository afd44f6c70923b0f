/**
 * Submitters that wait for their commit, against the orchestrator's store alone, with so many jobs in it before; prints the CPU it
 * took per job. What is written of each: `row`, a row of the size of a job's; `sealed`, a job's row, its prompt encrypted in it; `whole`, its
 * audit entry as well.
 */
import { contentKeyIn } from "../../packages/orcd/src/content-key.ts";
import { openStore } from "../../packages/orcd/src/store/open.ts";
import type { Change } from "../../packages/orcd/src/store/port.ts";
import { acceptedAt, acceptedEntry, jobId } from "./accepted-job.ts";

const WARM_MS = 700;
const WINDOW_MS = 1500;

const [, , path = "", submitters = "64", rows = "0", written = "whole"] = process.argv;
/** Jobs in one commit while the database is filled. */
const FILL = 1000;
const store = await openStore(path, { content: contentKeyIn(`${path}-content-key`) });
let jobs = 0;
let over = false;

function changes(n: number): Change[] {
  const id = jobId(n);
  const request = JSON.stringify({
    model: "bench",
    prompt: "p".repeat(300),
    raw: false,
    max_tokens: 100,
    temperature: 0.7,
    seed: n,
    stop: [],
    metadata: {},
  });
  const prompt = written === "row" ? { request: "", correlation_id: request } : { request, correlation_id: id };
  const insert = {
    id,
    tenant: "default",
    key_id: null,
    status: "queued",
    model: "bench",
    priority: "interactive",
    ...prompt,
    lives: 0,
    submitted_at_ms: acceptedAt(n),
  };
  const row: Change = { table: "jobs", insert };
  return written === "whole" ? [row, { table: "audit", append: acceptedEntry(n) }] : [row];
}

for (; jobs < Number(rows); jobs += FILL) await store.commit(Array.from({ length: FILL }, (_, n) => changes(jobs + n + 1)).flat());

const loops = Array.from({ length: Number(submitters) }, async () => {
  while (!over) {
    jobs += 1;
    await store.commit(changes(jobs));
  }
});
await new Promise((resolve) => setTimeout(resolve, WARM_MS));
const from = { jobs, cpu: process.cpuUsage() };
await new Promise((resolve) => setTimeout(resolve, WINDOW_MS));
const { user, system } = process.cpuUsage(from.cpu);
const counted = jobs - from.jobs;
over = true;
await Promise.all(loops);
await store.close();
process.stdout.write(`cpu_us_per_job ${((user + system) / counted).toFixed(2)}\n`);
