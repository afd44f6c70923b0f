/** What is done on a pool's machine is told to the orchestrator first; where that is refused, it is not done. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import { homeOf } from "@rbees/kit/home";
import type { Context } from "../src/context.ts";
import { recorded } from "../src/remote/recorded.ts";
import type { Errand } from "../src/verb.ts";
import { fakeOrchestrator } from "./fake-orchestrator.ts";
import { freePort } from "./harness.ts";

const SPAWN: Errand = {
  words: ["worker", "spawn"],
  flags: [
    ["--model", "demo"],
    ["--token", "secret"],
  ],
  args: ["cpu"],
  host: "atlas",
  render: undefined,
  renderLine: undefined,
};
const DOWNLOAD: Errand = { ...SPAWN, words: ["models", "download"], flags: [], args: ["qwen"], host: undefined };

function contextOf(orchestrator: string): { context: Context; said: string[] } {
  const said: string[] = [];
  const say = (line: string) => void said.push(line);
  const io = { say, err_look: { dim: (text: string) => text } };
  const context = { env: {}, home: homeOf({ RBEES_HOME: "/nowhere" }), signal: new AbortController().signal, orchestrator, say, io };
  return { context: context as unknown as Context, said };
}

test("an act is recorded before it happens, with what it is about and no other flag, and how it ended after", async (t) => {
  const orchestrator = await fakeOrchestrator({ events: [] });
  t.after(() => orchestrator.close());
  const { context } = contextOf(orchestrator.url);
  const told = () => orchestrator.acts.map(({ act, pool, about, state }) => [act, pool, about.join(" "), state]);
  const exit = await recorded(context, SPAWN, async () => {
    assert.deepEqual(told(), [["worker.spawn", "atlas", "cpu demo", "asked"]]);
    return 0;
  });
  assert.equal(exit, 0);
  assert.equal(await recorded(context, DOWNLOAD, async () => 1), 1);
  await assert.rejects(
    recorded(context, DOWNLOAD, () => Promise.reject(new Error("no network"))),
    /no network/,
  );
  assert.deepEqual(told(), [
    ["worker.spawn", "atlas", "cpu demo", "asked"],
    ["worker.spawn", "atlas", "cpu demo", "done"],
    ["model.download", "localhost", "qwen", "asked"],
    ["model.download", "localhost", "qwen", "failed"],
    ["model.download", "localhost", "qwen", "asked"],
    ["model.download", "localhost", "qwen", "failed"],
  ]);
  assert.equal(await recorded(context, { ...SPAWN, words: ["worker", "list"] }, async () => 0), 0);
  assert.equal(orchestrator.acts.length, 6, "looking is no act");
});

test("an act that the orchestrator refuses to record is not done; where there is no orchestrator it is, and that is said", async (t) => {
  const orchestrator = await fakeOrchestrator({ events: [], refuse: new RbeesError("FORBIDDEN", "The key may not.") });
  t.after(() => orchestrator.close());
  await assert.rejects(
    recorded(contextOf(orchestrator.url).context, DOWNLOAD, () => assert.fail("it must not happen")),
    /The key may not/,
  );
  const nobody = contextOf(`http://127.0.0.1:${await freePort()}`);
  assert.equal(await recorded(nobody.context, DOWNLOAD, async () => 0), 0);
  assert.match(nobody.said.join(), /Not recorded: no orchestrator answers at/);
  const none = contextOf("none");
  assert.equal(await recorded(none.context, DOWNLOAD, async () => 0), 0);
  assert.deepEqual(none.said, []);
});
