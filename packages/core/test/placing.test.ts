/** Which job is next and which worker gets it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain } from "../src/explain.ts";
import { Core, dispatched, LOST, the, UNREACHED } from "./support.ts";

test("jobs of one priority run in the order of their submission", () => {
  const core = new Core();
  core.worker("w1");
  for (const id of ["a", "b", "c", "d"]) core.submit(id);
  assert.deepEqual(
    ["a", "b", "c"].flatMap((id) => dispatched(core.ends(id))),
    ["b→w1", "c→w1", "d→w1"],
  );
});

test("an interactive job passes every batch job that waits, but none that runs", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("batch-1", { priority: "batch" });
  core.submit("batch-2", { priority: "batch" });
  assert.equal(the(core.submit("now"), "accept").position, 0);
  assert.equal(core.at("batch-1"), "w1");
  assert.deepEqual(dispatched(core.ends("batch-1")), ["now→w1"]);
  assert.deepEqual(dispatched(core.ends("now")), ["batch-2→w1"]);
});

test("a job that comes back runs before those that never ran, within its priority", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("first", { priority: "batch" });
  core.submit("second", { priority: "batch" });
  core.submit("urgent");
  core.ends("first", LOST);
  core.after(200);
  assert.equal(core.at("urgent"), "w1");
  assert.deepEqual(dispatched(core.ends("urgent")), ["first→w1"]);
});

test("jobs go round-robin over the workers that serve the model and have a free slot", () => {
  const core = new Core();
  core.worker("w1", { slots: 2 });
  core.worker("w2", { slots: 2 });
  core.worker("w3", { slots: 1 });
  core.worker("other", { slots: 8, model: "n" });
  const went = ["a", "b", "c", "d", "e", "f"].flatMap((id) => dispatched(core.submit(id)));
  assert.deepEqual(went, ["a→w1", "b→w2", "c→w3", "d→w1", "e→w2"]);
  assert.equal(core.at("f"), null);
  assert.deepEqual(dispatched(core.ends("c")), ["f→w3"]);
});

test("load is what was sent there, so a worker's free slot is used before any heartbeat says that it is free", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("a");
  core.submit("b");
  assert.deepEqual(core.running("w1"), ["a#1"]);
  core.ends("a");
  assert.deepEqual(core.running("w1"), ["b#1"]);
});

test("a preferred worker is taken while it can take the job, and another one when it can't", () => {
  const core = new Core();
  core.worker("w1");
  core.worker("w2");
  assert.deepEqual(dispatched(core.submit("a", { prefer: ["w2"] })), ["a→w2"]);
  assert.deepEqual(dispatched(core.submit("b", { prefer: ["w2"] })), ["b→w1"]);
});

test("an avoided worker never gets the job, even when every other one is busy", () => {
  const core = new Core();
  core.worker("w1");
  core.worker("w2");
  assert.deepEqual(dispatched(core.submit("a", { avoid: ["w1"] })), ["a→w2"]);
  core.submit("b", { avoid: ["w1"] });
  assert.equal(core.at("b"), null);
  assert.deepEqual(dispatched(core.submit("c")), ["c→w1"]);
  assert.deepEqual(dispatched(core.ends("a")), ["b→w2"]);
});

test("a pinned job waits for its worker and holds up nobody else of its model", () => {
  const core = new Core();
  core.worker("w1");
  core.worker("w2");
  core.submit("on-w1", { pin: "w1" });
  core.submit("pinned", { pin: "w1" });
  assert.deepEqual(dispatched(core.submit("free")), ["free→w2"]);
  assert.equal(core.at("pinned"), null);
  assert.deepEqual(dispatched(core.ends("on-w1")), ["pinned→w1"]);
});

test("the attempt after a lost one goes to another worker, and to the same one when there is no other", () => {
  const two = new Core();
  two.worker("w1");
  two.worker("w2");
  two.submit("a");
  two.submit("b");
  two.ends("b");
  two.ends("a", LOST);
  assert.deepEqual(dispatched(two.after(100)), ["a→w2"], "although w2 was used later than w1");

  const one = new Core();
  one.worker("w1");
  one.submit("a");
  one.ends("a", LOST);
  assert.deepEqual(dispatched(one.after(100)), ["a→w1"]);
});

test("a job that none of the free workers may take does not hold up the ones behind it", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("busy");
  core.submit("picky", { avoid: ["w1"] });
  core.submit("easy");
  assert.deepEqual(dispatched(core.ends("busy")), ["easy→w1"]);
});

test("a new worker takes as many waiting jobs as it has slots", () => {
  const core = new Core();
  core.worker("w1");
  for (const id of ["a", "b", "c", "d"]) core.submit(id);
  assert.deepEqual(dispatched(core.worker("w2", { slots: 2 })), ["b→w2", "c→w2"]);
  assert.equal(core.at("d"), null);
});

test("the same events give the same decisions", () => {
  const script = (core: Core) => {
    const out = [core.worker("w1", { slots: 2 }), core.worker("w2")];
    for (const id of ["a", "b", "c", "d"]) out.push(core.submit(id, { priority: id === "c" ? "batch" : "interactive" }));
    out.push(core.ends("a", UNREACHED), core.after(150), core.cancel("d"), core.ends("b"), core.after(1000));
    return out;
  };
  assert.deepEqual(script(new Core()), script(new Core()));
});

test("pinned jobs that wait do not count in the line of the others, and no line is kept that nobody waits in", () => {
  const core = new Core();
  core.worker("w1");
  core.submit("runs");
  core.submit("pinned", { pin: "w1" });
  assert.equal(the(core.submit("free"), "accept").position, 0);
  assert.equal(core.state.queues.size, 2);
  for (const id of ["pinned", "free"]) core.cancel(id);
  assert.equal(core.state.queues.size, 0);
});

test("a worker that lost the job comes last even when the job prefers it", () => {
  const core = new Core();
  core.worker("w1");
  core.worker("w2");
  assert.deepEqual(dispatched(core.submit("a", { prefer: ["w1"] })), ["a→w1"]);
  core.ends("a", LOST);
  assert.deepEqual(dispatched(core.after(100)), ["a→w2"]);
});

test("explain says which field asks for what a worker's engine can't do", () => {
  const core = new Core();
  core.worker("plain");
  core.worker("able", { features: ["grammar"] });
  core.submit("a", { needs: [{ feature: "grammar", field: "json_schema" }] });
  const why = explain(core.state, "a", core.now_ms);
  assert.partialDeepStrictEqual(why?.workers, [
    { worker_id: "plain", verdict: "excluded", reason: "its engine can't do what json_schema asks for (grammar)" },
    { worker_id: "able", verdict: "chosen" },
  ]);
});
