/** Ctrl-C, and nobody reading: what is followed ends, and so does what it asked for. */
import assert from "node:assert/strict";
import { closeSync, existsSync, openSync } from "node:fs";
import { test } from "node:test";
import { JOB, queued, started, token } from "./fake-orchestrator.ts";
import { ANSI, until } from "./harness.ts";
import { SUBMIT, setUp } from "./jobs-setup.ts";

test("Ctrl-C cancels the submitted job and exits 130", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, { events: [queued(), started, token("Hel"), "hang"] });
  const stop = new AbortController();
  const ran = await rbees.run([...SUBMIT, ...at], { signal: stop.signal, onOut: () => stop.abort() });
  assert.equal(ran.exit, 130);
  assert.deepEqual(orchestrator.cancelled, [JOB]);
  assert.match(ran.err, /Job job_1 is cancelled\.\n$/);
});

test("a second Ctrl-C ends at once, even while the job is being cancelled", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, { events: [queued(), started, token("Hel"), "hang"], cancel_hangs: true });
  const running = rbees.start([...SUBMIT, ...at]);
  await until(() => running.out().includes("Hel"), "the first token is there");
  running.child.kill("SIGINT");
  await until(() => orchestrator.cancelled.length === 1, "the cancellation is on its way");
  running.child.kill("SIGINT");
  assert.equal((await running.ended).exit, 130);
});

test("when nobody reads the answer any more, the job is cancelled", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, { events: [queued(), started, token("Hel"), "hang"] });
  const running = rbees.start([...SUBMIT, ...at]);
  await until(() => running.out().includes("Hel"), "the first token is there");
  running.child.stdout?.destroy();
  orchestrator.send(token("lo", 1));
  await running.ended;
  assert.deepEqual(orchestrator.cancelled, [JOB]);
});

test("Ctrl-C on follow leaves somebody else's job alone unless asked", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, { events: [queued(), started, token("Hel"), "hang"] });
  for (const [flags, cancelled] of [
    [[], []],
    [["--cancel"], [JOB]],
  ] as const) {
    const stop = new AbortController();
    const ran = await rbees.run(["rbees", "jobs", "follow", JOB, ...flags, ...at], { signal: stop.signal, onOut: () => stop.abort() });
    assert.equal(ran.exit, 130);
    assert.deepEqual(orchestrator.cancelled, cancelled);
  }
});

test("a real SIGINT to a real process cancels too, and piped output has no escape codes", async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, { events: [queued(), started, token("Hel"), "hang"] });
  const running = rbees.start([...SUBMIT, ...at]);
  await until(() => running.out().includes("Hel"), "the first token is there");
  running.child.kill("SIGINT");
  const { exit, out, err } = await running.ended;
  assert.equal(exit, 130);
  assert.deepEqual(orchestrator.cancelled, [JOB]);
  assert.doesNotMatch(out + err, ANSI);
});

test("output that can't be written, to a full disk say, is an error in a sentence", { skip: !existsSync("/dev/full") }, async (t) => {
  const { at, rbees, orchestrator } = await setUp(t, { events: [queued(), started, token("Hel"), "hang"] });
  for (const words of [
    [...SUBMIT, ...at],
    ["rbees", "--help"],
  ]) {
    const full = openSync("/dev/full", "w");
    t.after(() => closeSync(full));
    const { exit, err } = await rbees.start(words, {}, full).ended;
    assert.equal(exit, 1);
    assert.match(err, /^The output can't be written \(ENOSPC.*\): what was written is not all of it\.$/m);
    assert.doesNotMatch(err, /^ +at /m);
  }
  assert.deepEqual(orchestrator.cancelled, [JOB]);
});
