/** The checker bites: each planted fault is found, and a good stream is not blamed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { JobView } from "@rbees/contracts/job";
import { type Cut, StreamChecker, type Truth } from "./checker.ts";

const WORDS = [" one", " two", " three", " four", " five"];
const TRUTH: Truth = { text: WORDS.join(""), ids: [11, 12, 13, 14, 15], tokens_in: 3, tokens_out: 5, stop_reason: "EOS" };

type Planted = [id: number, event: Record<string, unknown>];

const token = (i: number, t = WORDS[i]): Record<string, unknown> => ({ type: "token", t, i, ids: [11 + i] });
const queued = { type: "queued", job_id: "j", position: 0 };
const started = { type: "started", job_id: "j", attempt: 1, worker_id: "w", model: "m" };
const migrated = { type: "migrated", attempt: 2, worker_id: "v", reason: "it fell silent" };
const end = {
  type: "end",
  stop_reason: "EOS",
  tokens_in: 3,
  tokens_out: 5,
  tokens_cached: 0,
  timings: { prefill_ms: 1, decode_ms: 2 },
};
const failed = { type: "error", code: "WORKER_LOST", message: "gone", retriable: true };
const restarted = { type: "restarted", reason: "the orchestrator was restarted" };

/** A recorded stream: ids 1 to 8. */
function recorded(): Planted[] {
  const events = [queued, started, ...WORDS.map((_, i) => token(i)), end];
  return events.map((event, n): Planted => [n + 1, event]);
}

/** The rules that the stream breaks, each once. */
function broken(stream: readonly Planted[], cut: Cut = []): string[] {
  const checker = new StreamChecker(TRUTH, cut);
  for (const [id, event] of stream) checker.take({ id: String(id), data: JSON.stringify(event) });
  return [...new Set(checker.violations.map(({ rule }) => rule))];
}

const ROW = {
  status: "succeeded",
  text: TRUTH.text,
  stop_reason: "EOS",
  usage: { tokens_in: 3, tokens_out: 5, tokens_cached: 0 },
  error: null,
  ended_at: "2026-01-01T00:00:00.000Z",
} as unknown as JobView;

test("a good stream is not blamed: whole, migrated, begun anew, or going on after a restart that kept tokens", () => {
  assert.deepEqual(broken(recorded()), []);
  const [a, b, c, d, e, f, g, h] = recorded() as [Planted, Planted, Planted, Planted, Planted, Planted, Planted, Planted];
  assert.deepEqual(broken([a, b, c, d, [5, migrated], [6, e[1]], [7, f[1]], [8, g[1]], [9, h[1]]]), []);
  const anew = recorded().map(([id, event]): Planted => [1_000_002 + id, event]);
  assert.deepEqual(broken([a, b, c, d, [1_000_001, queued], [1_000_002, restarted], ...anew]), []);
  const kept: Planted[] = [
    [1_000_001, queued],
    [1_000_002, { ...restarted, from: 2 }],
    [1_000_003, token(2)],
    [1_000_004, token(3)],
    [1_000_005, token(4)],
    [1_000_006, end],
  ];
  assert.deepEqual(broken([a, b, c, d, e, ...kept]), [], "three were sent, two are kept");
});

test("a lost token is found", () => {
  assert.ok(broken(recorded().filter((_, n) => n !== 4)).includes("no token is lost"));
});

test("lost last tokens are found", () => {
  assert.ok(broken(recorded().filter((_, n) => n !== 6)).includes("all tokens were sent before the end"));
});

test("a doubled token is found", () => {
  const stream = recorded();
  stream.splice(5, 0, [5, token(2)]);
  const found = broken(stream.map(([, event], n): Planted => [n + 1, event]));
  assert.ok(found.includes("no token comes twice"));
});

test("a second end is found", () => {
  assert.deepEqual(broken([...recorded(), [9, end]]), ["a job ends once"]);
  assert.ok(broken([...recorded(), [9, failed]]).includes("a job ends once"));
});

test("a falling id, and one that comes twice, are found", () => {
  const falling = recorded();
  (falling[5] as Planted)[0] = 2;
  assert.deepEqual(broken(falling), ["ids rise"]);
  const twice = recorded();
  (twice[5] as Planted)[0] = 5;
  assert.deepEqual(broken(twice), ["ids rise"]);
});

test("an event after the end is found", () => {
  assert.deepEqual(broken([...recorded(), [9, token(5, " six")]]), ["nothing comes after the end"]);
});

test("a wrong text and another job's token are found", () => {
  const wrong = recorded();
  wrong[4] = [5, token(2, " thirty")];
  assert.deepEqual(broken(wrong), ["the text is that of the undisturbed run"]);
  const foreign = recorded();
  foreign[4] = [5, { ...token(2), ids: [99] }];
  assert.deepEqual(broken(foreign), ["the tokens are those of the undisturbed run"]);
});

test("a wrong count, a wrong reason and an unwanted error are found", () => {
  assert.deepEqual(broken([...recorded().slice(0, -1), [8, { ...end, tokens_out: 4 }]]), ["tokens_out of the end is right"]);
  assert.deepEqual(broken([...recorded().slice(0, -1), [8, { ...end, stop_reason: "MAX_TOKENS" }]]), ["stop_reason of the end is right"]);
  assert.deepEqual(broken([...recorded().slice(0, -1), [8, failed]]), ["the job ends well"]);
  const cancelled = { type: "error", code: "CANCELLED", message: "it was cancelled", retriable: false };
  assert.deepEqual(broken([...recorded().slice(0, 5), [6, cancelled]], ["CANCELLED"]), []);
});

test("tokens that begin again without a word, and a restart that keeps what was never sent, are found", () => {
  const silent = recorded().map(([id, event]): Planted => [1_000_000 + id, event]);
  assert.ok(broken([...recorded().slice(0, 5), ...silent]).includes("no token comes twice"));
  assert.ok(broken([...recorded().slice(0, 3), [4, { ...restarted, from: 3 }]]).includes("a restart keeps only what was sent"));
});

test("a row that says otherwise, and a job that never ends, are found", () => {
  const rules = (row: Partial<JobView>, stream = recorded()) => {
    const checker = new StreamChecker(TRUTH);
    for (const [id, event] of stream) checker.take({ id: String(id), data: JSON.stringify(event) });
    checker.row({ ...ROW, ...row } as JobView);
    return checker.violations.map(({ rule }) => rule);
  };
  assert.deepEqual(rules({}), []);
  assert.deepEqual(rules({ text: " one two" }), ["the row has the text that was sent"]);
  assert.deepEqual(rules({ status: "running" }), ["status of the row is right"]);
  assert.deepEqual(rules({ usage: { tokens_in: 3, tokens_out: 6, tokens_cached: 0 } }), ["tokens_out of the row is right"]);
  assert.deepEqual(rules({}, recorded().slice(0, -1)), ["every job ends"]);
});

test("the cut of a slow reader is no end: it resumes by id", () => {
  const checker = new StreamChecker(TRUTH);
  for (const [id, event] of recorded().slice(0, 4)) checker.take({ id: String(id), data: JSON.stringify(event) });
  const lagged = { type: "error", code: "LAGGED", message: "The reader was too slow.", retriable: true };
  assert.equal(checker.take({ id: "4", data: JSON.stringify(lagged) }), true);
  assert.equal(checker.ended, false);
  for (const [id, event] of recorded().slice(4)) checker.take({ id: String(id), data: JSON.stringify(event) });
  assert.deepEqual([checker.violations, checker.ended, checker.text], [[], true, TRUTH.text]);
});
