/** The orchestrator dies and starts again: what was on disk goes on, and every reader can put the exact text together. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { answerOf } from "../../../test/support/events.ts";
import type { FakeAttempt } from "../../../test/support/fake-worker.ts";
import { eventIdBase, seenId } from "../src/event-id.ts";
import { rowsIn } from "./database.ts";
import { eventsOf, eventually, type Harness, type Json, startHarness } from "./harness.ts";
import { keptIn } from "./kept.ts";

const SOON = { progress_flush_ms: 10 };

/** The files as they are now, in a folder of their own: what is left when the orchestrator is killed at this moment. */
function disk(t: TestContext, { data_dir }: Harness): string {
  const folder = mkdtempSync(join(tmpdir(), "rbees-orcd-killed-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  cpSync(data_dir, folder, { recursive: true });
  return folder;
}

function rows(folder: string, table: string): Json[] {
  return rowsIn(join(folder, "orcd.sqlite"), `select * from ${table}`);
}

const auditOf = (folder: string): Json[] => rows(folder, "audit").map(({ record }) => JSON.parse(record));

/** The disk as soon as this token is on it. */
const diskWith = (t: TestContext, orcd: Harness, token: string) =>
  eventually(() => {
    const folder = disk(t, orcd);
    const { progress } = keptIn(join(folder, "orcd.sqlite"), join(folder, "content-key"));
    return progress.some(({ events }) => events.includes(`"t":${JSON.stringify(token)}`)) && folder;
  });

interface Begun {
  readonly job_id: string;
  readonly events_url: string;
  readonly attempt: FakeAttempt;
}

/** A job that runs on a worker of its own. */
async function begin(orcd: Harness, { worker, ...body }: Json = {}): Promise<Begun> {
  const w1 = await orcd.worker("w1", worker);
  const { job_id, events_url } = (await (await orcd.submit({ seed: 7, ...body })).json()) as Json;
  const attempt = await w1.next();
  attempt.started();
  return { job_id, events_url, attempt };
}

/** What a reader has got when its text is this; `before`: what it had got before it resumed. */
async function readTo(orcd: Harness, events_url: string, text: string, before: Json[] = []): Promise<Json[]> {
  const headers: Record<string, string> = before.length === 0 ? {} : { "last-event-id": String(before.at(-1).id) };
  const more = await eventsOf(await orcd.get(events_url, headers), (events) => answerOf([...before, ...events]).text === text);
  return [...before, ...more];
}

test("after a kill a job goes on with the tokens on disk, and each reader, whatever it had seen, ends with the whole text", async (t) => {
  const first = await startHarness(t, SOON);
  const { job_id, events_url, attempt } = await begin(first);
  attempt.tokens("Hé", "llo", " 世");
  const left = await diskWith(t, first, " 世");
  attempt.tokens(" 🐝", "s");
  const seen = await readTo(first, events_url, "Héllo 世 🐝s");

  const second = await startHarness(t, SOON, left);
  assert.equal((await second.json(`/v2/tasks/${job_id}`)).text, "Héllo 世");
  const resumed = seen.map(({ id }) => second.get(events_url, { "last-event-id": String(id) }));
  const late = second.get(events_url);
  const worker = await second.worker("w2");
  const next = await worker.next();
  assert.deepEqual([next.body.attempt, next.body.seed, next.body.continue_from], [2, 7, { tokens: [1000, 1001, 1002] }]);
  next.started();
  next.tokens("!");
  next.end();

  const fresh = await eventsOf(await late);
  assert.deepEqual(
    fresh.map(({ type }) => type),
    ["queued", "started", "token", "token", "token", "restarted", "migrated", "token", "end"],
  );
  assert.deepEqual(
    fresh.map(({ id }) => id),
    fresh.map((_, n) => 1_000_001 + n),
  );
  assert.equal(answerOf(fresh).text, "Héllo 世!");
  for (const [n, response] of resumed.entries()) {
    const more = await eventsOf(await response);
    // What it had seen of the events on disk is not sent again; of what was lost it is told.
    assert.equal(more[0].id, 1_000_001 + Math.min(n + 1, 5));
    assert.equal(more.find(({ type }) => type === "restarted").from, 3);
    assert.equal(answerOf([...seen.slice(0, n + 1), ...more]).text, "Héllo 世!");
  }
  const shown = await second.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([shown.status, shown.text, shown.attempts.length], ["succeeded", "Héllo 世!", 2]);
  assert.match(await (await second.get("/metrics")).text(), /^orchd_tasks_migrated_total\{outcome="continued"\} 1$/m);
  const files = disk(t, second);
  assert.deepEqual(rows(files, "progress"), [], "it has ended");
  const { kind, continued_tokens, reason } = auditOf(files).find((entry) => entry.kind === "job.migrated");
  assert.deepEqual([kind, continued_tokens, reason], ["job.migrated", 3, "the orchestrator was restarted"]);
});

test("readers of every earlier life find their place, however often the orchestrator is killed", async (t) => {
  let orcd = await startHarness(t, SOON);
  let { job_id, events_url, attempt }: Begun = await begin(orcd);
  /** What somebody has read who read on in each life; and those who came new in one, and left after each of its events. */
  let whole: Json[] = [];
  const left: Json[][] = [];
  let text = "";
  for (let life = 0; life < 4; life += 1) {
    // In the second life nothing gets to disk.
    let files = disk(t, orcd);
    if (life !== 1) {
      attempt.tokens(`k${life}`);
      files = await diskWith(t, orcd, `k${life}`);
      text += `k${life}`;
    }
    attempt.tokens(`lost${life}`);
    const fresh = await readTo(orcd, events_url, `${text}lost${life}`);
    for (let n = 1; n <= fresh.length; n += 1) left.push(fresh.slice(0, n));
    whole = await readTo(orcd, events_url, `${text}lost${life}`, whole);
    orcd = await startHarness(t, life === 0 ? { progress_flush_ms: 0 } : SOON, files);
    const worker = await orcd.worker(`w${life}`);
    attempt = await worker.next();
    attempt.started();
  }
  assert.equal(text, "k0k2k3");
  attempt.end();
  for (const before of [...left, whole]) {
    const more = await eventsOf(await orcd.get(events_url, { "last-event-id": String(before.at(-1).id) }));
    assert.equal(answerOf([...before, ...more]).text, text, `after ${before.at(-1).id}`);
  }
  assert.equal((await orcd.json(`/v2/tasks/${job_id}`)).text, text);
});

test("a stop in good order leaves nothing to be made again, and keeps how likely tokens were", async (t) => {
  const first = await startHarness(t, { progress_flush_ms: 60_000, drain_ms: 0 });
  const worker_has = { features: ["logprobs"] };
  const { job_id, events_url, attempt } = await begin(first, { worker: worker_has, logprobs: 0 });
  const likely = (token: string) => ({ token, logprob: -1, top_logprobs: [] });
  for (const token of ["a", "b", "c"]) attempt.token(token, { logprobs: [likely(token)] });
  const seen = await readTo(first, events_url, "abc");
  await first.orcd.stop();
  const second = await startHarness(t, SOON, first.data_dir);
  const worker = await second.worker("w2", worker_has);
  const next = await worker.next();
  assert.deepEqual([next.body.continue_from, next.body.logprobs], [{ tokens: [1000, 1001, 1002] }, 0]);
  next.started();
  next.token("d", { logprobs: [likely("d")] });
  next.end();
  const more = await eventsOf(await second.get(events_url, { "last-event-id": String(seen.at(-1).id) }));
  assert.deepEqual(
    more.map(({ type, from }) => [type, from]),
    [
      ["restarted", 3],
      ["migrated", undefined],
      ["token", undefined],
      ["end", undefined],
    ],
  );
  assert.deepEqual((await second.json(`/v2/tasks/${job_id}`)).logprobs, ["a", "b", "c", "d"].map(likely));
});

test("who comes as the orchestrator ends is told to come again, not that it is done", async (t) => {
  const orcd = await startHarness(t, { drain_ms: 20, tick_ms: 5 });
  const { job_id, attempt } = await begin(orcd);
  const late = connect(orcd.orcd.port, "127.0.0.1");
  let answer = "";
  late.setEncoding("utf8").on("data", (chunk: string) => {
    answer += chunk;
  });
  const ended = once(late, "close");
  // Begun before, and so not a connection that nobody uses; the whole of it comes when nothing is decided any more.
  late.write(`DELETE /v2/tasks/${job_id} HTTP/1.1\r\nhost: rbees\r\n`);
  const stopped = orcd.orcd.stop();
  await attempt.closed;
  late.write("connection: close\r\n\r\n");
  await ended;
  assert.match(answer, /^HTTP\/1\.1 503 [\s\S]*"SHUTTING_DOWN"/);
  await stopped;
  assert.equal(rows(orcd.data_dir, "jobs")[0]?.status, "running", "it goes on at the next start");
});

test("a job that ends before the first flush writes no progress, and none is written where flushes are off", async (t) => {
  for (const progress_flush_ms of [60_000, 0]) {
    const first = await startHarness(t, { progress_flush_ms });
    const { events_url, attempt } = await begin(first);
    attempt.tokens("a");
    await readTo(first, events_url, "a");
    const files = disk(t, first);
    assert.deepEqual(rows(files, "progress"), []);
    const second = await startHarness(t, SOON, files);
    const worker = await second.worker("w2");
    const next = await worker.next();
    assert.equal(next.body.continue_from, undefined);
    next.started();
    next.tokens("b");
    next.end();
    const events = await eventsOf(await second.get(events_url, { "last-event-id": "3" }));
    assert.deepEqual([events[0].type, events[0].from], ["restarted", 0]);
    assert.equal(answerOf(events).text, "b");
    assert.ok(auditOf(disk(t, second)).some(({ kind }) => kind === "job.restarted"));
  }
});

test("on_worker_lost restart: after the first token the answer begins anew, and says so", async (t) => {
  const orcd = await startHarness(t, SOON);
  const { events_url, attempt } = await begin(orcd, { on_worker_lost: "restart" });
  attempt.tokens("a");
  await readTo(orcd, events_url, "a");
  const worker = await orcd.worker("w2");
  attempt.drop();
  const next = await worker.next();
  assert.equal(next.body.continue_from, undefined);
  next.started();
  next.tokens("x");
  next.end();
  const events = await eventsOf(await orcd.get(events_url));
  assert.deepEqual(
    events.map(({ type }) => type),
    ["queued", "started", "token", "restarted", "started", "token", "end"],
  );
  assert.equal(answerOf(events).text, "x");
  assert.match(await (await orcd.get("/metrics")).text(), /^orchd_tasks_migrated_total\{outcome="restarted"\} 1$/m);
});

test("on_worker_lost fail: a job whose answer has begun ends with WORKER_LOST, by its worker or by the orchestrator", async (t) => {
  const orcd = await startHarness(t, SOON);
  const { job_id, events_url, attempt } = await begin(orcd, { on_worker_lost: "fail" });
  attempt.tokens("a");
  const files = await diskWith(t, orcd, "a");
  attempt.drop();
  const last = (await eventsOf(await orcd.get(events_url))).at(-1);
  assert.deepEqual([last.type, last.code, last.retriable], ["error", "WORKER_LOST", true]);

  const second = await startHarness(t, SOON, files);
  const events = await eventsOf(await second.get(events_url));
  assert.deepEqual([answerOf(events).text, events.at(-1).code], ["a", "WORKER_LOST"]);
  const shown = await second.json(`/v2/tasks/${job_id}`);
  assert.deepEqual([shown.status, shown.text, shown.error.code], ["failed", "a", "WORKER_LOST"]);
  assert.deepEqual(rows(disk(t, second), "progress"), []);
});

test("another build of the model does not go on with the tokens of the first; one that does not say which it is does", async (t) => {
  for (const [digest, continued] of [
    ["sha256:b", false],
    ["sha256:a", true],
    [undefined, true],
  ] as const) {
    const first = await startHarness(t, SOON);
    const { events_url, attempt } = await begin(first, { worker: { model_digest: "sha256:a" } });
    attempt.tokens("a");
    const second = await startHarness(t, SOON, await diskWith(t, first, "a"));
    const worker = await second.worker("w2", digest === undefined ? {} : { model_digest: digest });
    const next = await worker.next();
    assert.deepEqual(next.body.continue_from, continued ? { tokens: [1000] } : undefined);
    next.started();
    next.tokens("b");
    next.end();
    const events = await eventsOf(await second.get(events_url));
    assert.equal(answerOf(events).text, continued ? "ab" : "b");
    const anew = events.find(({ type, from }) => type === "restarted" && from === 0);
    assert.equal(anew?.reason, continued ? undefined : "the next worker has another build of the model");
  }
});

test("event ids: what a reader has seen in any life is the same events in the present one, and no more", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ more: fc.nat(20), lost: fc.nat(20) }), { minLength: 1, maxLength: 6 }),
      fc.nat(),
      fc.nat(),
      (lives, which, where) => {
        // Each life has all events that were on disk when it began, then `more` that got there, then some that did not.
        const kept: number[] = [];
        for (const { more } of lives) kept.push((kept.at(-1) ?? 1) + more);
        const life = which % lives.length;
        const on_disk = kept[life] as number;
        const sent = on_disk + (lives[life]?.lost ?? 0);
        const place = 1 + (where % sent);
        const now = seenId(eventIdBase(life) + place, kept);
        assert.equal(now, eventIdBase(lives.length) + Math.min(place, on_disk));
        assert.equal(seenId(now, kept), now, "an id of the present life stays what it is");
      },
    ),
  );
});
