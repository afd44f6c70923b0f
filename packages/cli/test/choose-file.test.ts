/** Which file of a repository is meant, and what a reference says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { candidates, chooseModel, QUANTISATIONS, quantisationIn } from "../src/download/choose-file.ts";
import { Ranges } from "../src/download/ranges.ts";
import { parseReference } from "../src/download/reference.ts";
import { segments } from "../src/download/transfer.ts";

test("names as publishers write them say their quantisation", () => {
  for (const [name, quantisation] of [
    ["tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", "Q4_K_M"],
    ["qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"],
    ["Phi-3-mini-4k-instruct-q4.gguf", "Q4"],
    ["Phi-3-mini-4k-instruct-fp16.gguf", "FP16"],
    ["Q8_0/Meta-Llama-3.1-70B-Instruct-Q8_0-00001-of-00002.gguf", "Q8_0"],
    ["gpt-oss-20b-mxfp4.gguf", "MXFP4"],
    ["Model-UD-IQ2_XXS.gguf", "IQ2_XXS"],
    ["bf16-model-IQ4_XS.gguf", "IQ4_XS"],
    ["llama.gguf", undefined],
    ["Q4_K_M/llama.gguf", undefined],
  ] as const)
    assert.equal(quantisationIn(name), quantisation, name);
});

const quantisation = fc.constantFrom(...QUANTISATIONS);
const repository = fc.uniqueArray(
  fc.record({ quantisation, bytes: fc.integer({ min: 1, max: 1e12 }), parts: fc.integer({ min: 1, max: 3 }), lower: fc.boolean() }),
  {
    selector: (file) => file.quantisation,
    maxLength: 12,
  },
);
const filesOf = (models: { quantisation: string; bytes: number; parts: number; lower: boolean }[]) =>
  models.flatMap(({ quantisation: name, bytes, parts, lower }) =>
    Array.from({ length: parts }, (_, i) => ({
      path: `model-${lower ? name.toLowerCase() : name}${parts === 1 ? "" : `-0000${i + 1}-of-0000${parts}`}.gguf`,
      bytes,
    })),
  );

test("chosen is Q4_K_M, else the smallest that is no coarser, else the finest; in any order of files, parts counted together", () => {
  const rank = (name: string | undefined) => QUANTISATIONS.indexOf(name as (typeof QUANTISATIONS)[number]);
  fc.assert(
    fc.property(repository, fc.infiniteStream(fc.nat()), (models, order) => {
      const files = [...filesOf(models), { path: "mmproj-model-F16.gguf", bytes: 1 }, { path: "README.md", bytes: 1 }];
      const shuffled = files
        .map((file) => ({ file, at: order.next().value }))
        .sort((a, b) => a.at - b.at)
        .map(({ file }) => file);
      const found = candidates(shuffled);
      assert.equal(found.length, models.length);
      const chosen = chooseModel(found, undefined);
      if (models.length === 0) return assert.equal(chosen, undefined);
      const has = (name: string) => models.some((model) => model.quantisation === name);
      if (has("Q4_K_M")) return assert.equal(chosen?.quantisation, "Q4_K_M");
      const finer = found.filter((model) => rank(model.quantisation) > rank("Q4_K_M"));
      if (finer.length > 0) return assert.equal(chosen?.bytes, Math.min(...finer.map(({ bytes }) => bytes)));
      assert.equal(rank(chosen?.quantisation), Math.max(...models.map((model) => rank(model.quantisation))));
    }),
  );
});

test("a quantisation that is asked for is the one that comes, or none", () => {
  fc.assert(
    fc.property(repository, quantisation, (models, wanted) => {
      const chosen = chooseModel(candidates(filesOf(models)), wanted.toLowerCase());
      assert.equal(chosen?.quantisation, models.some((model) => model.quantisation === wanted) ? wanted : undefined);
    }),
  );
});

test("a model of which a part is missing is none; several without a quantisation are not guessed among", () => {
  const files = filesOf([{ quantisation: "Q4_K_M", bytes: 5, parts: 3, lower: false }]);
  assert.equal(candidates(files.slice(1)).length, 0);
  assert.equal(candidates(files.slice(0, 2)).length, 0);
  const plain = ["a.gguf", "b.gguf"].map((path) => ({ path, bytes: 1 }));
  assert.equal(chooseModel(candidates(plain), undefined), undefined);
  assert.equal(chooseModel(candidates(plain.slice(1)), undefined)?.path, "b.gguf");
});

test("references are taken apart, and hostile ones refused", () => {
  const hub = { kind: "hub", repo: "org/repo", revision: undefined, file: undefined, quantisation: undefined };
  assert.deepEqual(parseReference("hf:org/repo"), hub);
  assert.deepEqual(parseReference("hf:org/repo:Q5_K_M"), { ...hub, quantisation: "Q5_K_M" });
  assert.deepEqual(parseReference("hf:org/repo@refs/pr/3::file=a/b c.gguf"), { ...hub, revision: "refs/pr/3", file: "a/b c.gguf" });
  assert.deepEqual(parseReference("hf:org/repo@v1:Q8_0"), { ...hub, revision: "v1", quantisation: "Q8_0" });
  assert.deepEqual(parseReference("https://host/a.gguf?x=1"), { kind: "web", url: "https://host/a.gguf?x=1" });
  assert.deepEqual(parseReference("file:///a b.gguf"), { kind: "file", path: "/a b.gguf" });
  for (const bad of [
    ...["hf:", "hf:org", "hf:org/repo/more", "hf:../repo", "hf:org/..", "hf:org/repo@../x", "hf:org/repo::file=../../etc/passwd.gguf"],
    ...[
      "hf:org/repo::file=/etc/x.gguf",
      "hf:org/repo::file=a\\b.gguf",
      "hf:org/repo::file=a.bin",
      "hf:org/repo::file=a.gguf?x",
      "file:relative.gguf",
    ],
    ...[
      "https://u:p@host/a.gguf",
      "https://host/page",
      "https://host/%zz.gguf",
      "http://",
      "hf:org/re\u001bpo",
      `hf:org/${"x".repeat(2000)}`,
    ],
  ])
    assert.throws(() => parseReference(bad), { code: "INVALID_REQUEST" }, bad);
});

test("runs of bytes: what is there and what is missing are each other's rest, and segments cover just that", () => {
  const run = fc.tuple(fc.nat(200), fc.nat(200)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
  fc.assert(
    fc.property(fc.array(run, { maxLength: 20 }), fc.integer({ min: 1, max: 8 }), (runs, connections) => {
      const ranges = new Ranges();
      const there = new Set<number>();
      for (const [from, to] of runs) {
        ranges.add(from, to);
        for (let at = from; at < to; at++) there.add(at);
      }
      const missing = segments(ranges.missing(200), connections).flatMap(([from, to]) =>
        Array.from({ length: to - from }, (_, i) => from + i),
      );
      assert.equal(ranges.bytes, there.size);
      assert.deepEqual(
        missing,
        Array.from({ length: 200 }, (_, at) => at).filter((at) => !there.has(at)),
      );
      assert.equal(ranges.prefix, missing[0] ?? 200);
    }),
  );
});
