/** `rbees-pool models download` against a hub that answers well: what is fetched, what is recorded, and what workers make of it. */
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { PoolDownloaded, PoolDownloadProgress, PoolModels } from "@rbees/contracts/pool";
import { hashOf } from "../../../test/support/fake-hub.ts";
import { COMMIT, FILE, REPO, setUp } from "./download-setup.ts";

test("an alias is fetched at a commit, checked, named and recorded", async (t) => {
  const { download, models, hub, model, root } = await setUp(t);
  const ran = await download("qwen", "--json");
  assert.equal(ran.exit, 0, ran.err);
  const lines = ran.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const done = PoolDownloaded.parse(lines.pop());
  for (const line of lines) PoolDownloadProgress.parse(line);
  const { path = "" } = done.model as { path: string };
  assert.partialDeepStrictEqual(done, {
    how: "downloaded",
    model: {
      name: "qwen-0.5b",
      reference: `hf:${REPO}@${COMMIT}::file=${FILE}`,
      revision: COMMIT,
      bytes: model.length,
      sha256: hashOf({ bytes: model.length, slice: (from, to) => model.subarray(from, to) }),
      present: true,
      license: "apache-2.0",
      quantisation: "Q8_0",
    },
  });
  assert.ok(path.startsWith(join(root, "data", "models")) && path.endsWith(FILE));
  assert.deepEqual(await readFile(path), model);
  assert.deepEqual((await readdir(dirname(path))).sort(), ["model.json", FILE].sort());
  assert.ok(hub.requests.filter(({ at }) => at === "storage").length > 2, "over several connections");
  const list = PoolModels.parse(JSON.parse((await models("list", "--json")).out)).models;
  assert.deepEqual(
    list.map(({ name }) => name),
    ["demo", "qwen-0.5b"],
  );
  assert.match((await models("list")).out, /qwen-0\.5b, qwen +3\.0 MB +llama Q8_0 +512 +apache-2\.0 +\//);
  const before = hub.requests.length;
  const again = await download("qwen");
  assert.match(again.out, /qwen-0\.5b is here already/);
  assert.equal(hub.requests.length, before, "nobody was asked");
});
