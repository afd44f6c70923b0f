/** An answer survives its orchestrator: what was on disk is not made again, and a client who had read more is told what is. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import {
  eventually,
  follow,
  getJson,
  type Json,
  type Program,
  startOrcd,
  startWorkerd,
  submit,
  temporaryFolder,
} from "../support/cluster.ts";
import { answerOf } from "../support/events.ts";
import { writeCountingModel } from "../support/models.ts";

const DEMO = fileURLToPath(new URL("../../models/demo/demo.gguf", import.meta.url));
const RBEES = fileURLToPath(new URL("../../packages/cli/src/rbees.ts", import.meta.url));
const SOON = ["--heartbeat-ms", "200", "--progress-flush-ms", "20"];

/** The same orchestrator again: same folder, same port. */
function again(t: TestContext, data: string, { port }: Program): Promise<Program> {
  return startOrcd(t, data, [...SOON, "--port", String(port)]);
}

const workersOf = async ({ url }: Program) => (await getJson(`${url}/v2/workers`)).workers.length;

test("kill -9 of the orchestrator in mid-answer, twice: a client who resumes ends with the undisturbed text", async (t) => {
  const data = join(temporaryFolder(t, "restarted"), "data");
  let orcd = await startOrcd(t, data, SOON);
  await startWorkerd(t, DEMO, orcd.url, ["--model-name", "demo"]);
  await eventually(async () => (await workersOf(orcd)) === 1);
  const asked = { model: "demo", prompt: "Tell me a long story about a bee.", max_tokens: 400, temperature: 0 };
  const undisturbed = answerOf(await all(await submit(orcd.url, { ...asked, stream: true })));
  assert.ok(undisturbed.tokens.length > 350, `${undisturbed.tokens.length} tokens are too few to be disturbed`);

  const { job_id } = (await (await submit(orcd.url, asked)).json()) as Json;
  const seen: Json[] = [];
  for (const stop_at of [120, 260, Number.POSITIVE_INFINITY]) {
    const after: Record<string, string> = seen.length === 0 ? {} : { "last-event-id": String(seen.at(-1).id) };
    const stream = await fetch(`${orcd.url}/v2/tasks/${job_id}/events`, { headers: after });
    try {
      for await (const event of follow(stream)) {
        seen.push(event);
        if (event.type === "token" && event.i >= stop_at) orcd.signal("SIGKILL");
      }
    } catch (error) {
      if (stop_at === Number.POSITIVE_INFINITY) throw error;
    }
    if (stop_at === Number.POSITIVE_INFINITY) break;
    await orcd.exited;
    orcd = await again(t, data, orcd);
  }
  assert.deepEqual(answerOf(seen), undisturbed);
  assert.ok(seen.every(({ id }, n) => n === 0 || id > seen[n - 1].id));
  const restarted = seen.filter(({ type }) => type === "restarted");
  assert.equal(restarted.length, 2);
  assert.ok(
    restarted.every(({ from }) => from > 0),
    "it began from its first token",
  );
  const metrics = await (await fetch(`${orcd.url}/metrics`)).text();
  assert.match(metrics, /^orchd_tasks_migrated_total\{outcome="continued"\} 1$/m);
  const late = answerOf(await all(await fetch(`${orcd.url}/v2/tasks/${job_id}/events`)));
  assert.deepEqual(late, undisturbed, "a reader who comes late reads the same");
  const shown = await getJson(`${orcd.url}/v2/tasks/${job_id}`);
  assert.deepEqual([shown.status, shown.text, shown.usage.tokens_out], ["succeeded", undisturbed.text, undisturbed.tokens.length]);
});

test("rbees jobs submit prints one whole answer, although the orchestrator is killed in the middle of it", async (t) => {
  const folder = temporaryFolder(t, "restarted-cli");
  const { path, text } = writeCountingModel(folder, 60);
  const data = join(folder, "data");
  const orcd = await startOrcd(t, data, SOON);
  await startWorkerd(t, path, orcd.url, ["--model-name", "counting"]);
  await eventually(async () => (await workersOf(orcd)) === 1);
  const flags = ["--model", "counting", "--prompt", "count", "--max-tokens", "200", "--temperature", "0", "--orchestrator", orcd.url];
  const rbees = spawn(process.execPath, [RBEES, "jobs", "submit", ...flags], { stdio: ["ignore", "pipe", "pipe"] });
  t.after(() => rbees.kill("SIGKILL"));
  let out = "";
  let err = "";
  rbees.stdout.on("data", (part) => {
    out += part;
  });
  rbees.stderr.on("data", (part) => {
    err += part;
  });
  const exited = new Promise<number | null>((resolve) => rbees.on("exit", resolve));
  await eventually(() => out.split(" ").length > 12);
  await orcd.kill("SIGKILL");
  await again(t, data, orcd);
  assert.equal(await exited, 0, err);
  assert.equal(out, `${text}\n`);
});

async function all(response: Response): Promise<Json[]> {
  const events: Json[] = [];
  for await (const event of follow(response)) events.push(event);
  return events;
}
