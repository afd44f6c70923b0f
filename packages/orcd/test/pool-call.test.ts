/** One call of the command line by the orchestrator: what it says on the way, how it fails, and that it ends in good order. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { callPool } from "../src/pool-call.ts";

/** A program that is called as `rbees pool …` is. */
const program = (source: string) => [process.execPath, "-e", source];
const talk = (line: object) => `process.stderr.write(${JSON.stringify(`${JSON.stringify(line)}\n`)});`;
const call = (source: string, options: Partial<Parameters<typeof callPool>[1]> = {}) =>
  callPool(program(source), { ms_max: 60_000, signal: new AbortController().signal, ...options });

test("the last line of its output is the result; what it says of its progress is heard, other talk is not", async () => {
  const shares: number[] = [];
  const source = `
    ${talk({ rbees: "hello", version: "1" })}
    ${talk({ rbees: "progress", step: "loading", detail: "40 %", share: 0.4 })}
    process.stderr.write("Warning: something of ssh\\n");
    ${talk({ rbees: "progress", step: "waiting" })}
    process.stdin.once("data", (said) => { process.stdout.write("Welcome!\\n" + JSON.stringify([process.env.RBEES_AFAR, String(said)]) + "\\n"); process.exit(0); });`;
  const out = await call(source, { handover: "secret", onShare: (share) => shares.push(share) });
  assert.deepEqual(JSON.parse(out), ["1", "secret\n"]);
  assert.deepEqual(shares, [0.4]);
});

test("a failure has the reason of its error, else what it said last, else its exit code", async () => {
  const error = new RbeesError("NOT_FOUND", "There is no model x.").body("");
  await assert.rejects(call(`console.log(${JSON.stringify(JSON.stringify(error))}); process.exit(1)`), { message: "There is no model x." });
  await assert.rejects(call(`${talk({ rbees: "say", line: "rbees: No." })} process.exit(1)`), { message: "No." });
  await assert.rejects(call("process.exit(3)"), { message: "it ended with exit code 3" });
});

test("when time is up, or the orchestrator stops, its stdin ends, and it has time to end in good order", async () => {
  const source = `process.stdin.resume().on("end", () => { ${talk({ rbees: "progress", step: "ending", share: 1 })} process.exit(0); });
    ${talk({ rbees: "progress", step: "working", share: 0 })}`;
  const shares: number[] = [];
  const stopping = new AbortController();
  const onShare = (share: number) => {
    shares.push(share);
    stopping.abort();
  };
  await assert.rejects(call(source, { signal: stopping.signal, onShare }), { message: "the orchestrator is stopping" });
  assert.deepEqual(shares, [0, 1]);
  await assert.rejects(call("process.stdin.resume()", { ms_max: 1 }), { message: "it took more than 1 ms" });
});
