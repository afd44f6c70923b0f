/** `rbees pool models download --host`: over a real sshd, from a fake hub, with the operator's own account there. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { contentOf, FakeHub } from "../../../test/support/fake-hub.ts";
import { COMMIT, FILE, modelOf, QUICK, REPO } from "./download-setup.ts";
import { setUp, skip } from "./remote-setup.ts";

const { far, near, farCommands } = skip === false ? await setUp() : ({} as Awaited<ReturnType<typeof setUp>>);

test("a model is downloaded over there from the operator's hub with the operator's token, which no command line shows", {
  skip,
}, async (t) => {
  const hub = await FakeHub.start();
  t.after(() => hub.stop());
  const model = await modelOf(near, 300_000, 3);
  hub.repos.set(REPO, { commit: COMMIT, token: "hf_operators", license: "apache-2.0", files: { [FILE]: contentOf(model) } });
  const onAtlas = (env: Record<string, string>, ...words: string[]) =>
    near.run(["rbees", "pool", "models", ...words, "--host", "atlas"], { env: { HF_ENDPOINT: hub.url, ...env } });

  const stranger = await onAtlas({}, "download", "qwen", ...QUICK);
  assert.equal(stranger.exit, 4, stranger.err);
  assert.match(stranger.err, /^rbees: atlas: .*wants to know who asks \(401\)[\s\S]*set HF_TOKEN/m);

  const seen: string[] = [];
  hub.hub_fault = () => {
    seen.push(...farCommands().map(({ args }) => args));
    return undefined;
  };
  const info = await onAtlas({ HF_TOKEN: "hf_operators" }, "info", "qwen", "--json");
  assert.equal(info.exit, 0, info.err);
  assert.equal(JSON.parse(info.out).license, "apache-2.0");
  const fetched = await onAtlas({ HF_TOKEN: "hf_operators" }, "download", "qwen", ...QUICK);
  assert.equal(fetched.exit, 0, fetched.err);
  const path = /: (\/.*\.gguf)\n$/.exec(fetched.out)?.[1] ?? "";
  assert.ok(path.startsWith(`${far.home}/`), fetched.out);
  assert.deepEqual(await readFile(path), model);
  assert.ok(seen.length > 0);
  for (const args of seen) assert.doesNotMatch(args, /hf_operators/);
});

test("what is no account of a hub is refused by name, not taken", { skip }, async () => {
  const env = { HF_ENDPOINT: "http://127.0.0.1:9", HF_TOKEN: "x".repeat(5000) };
  const { exit, err } = await near.run(["rbees", "pool", "models", "download", "qwen", "--host", "atlas"], { env });
  assert.equal(exit, 2);
  assert.match(err, /HF_TOKEN/);
});
