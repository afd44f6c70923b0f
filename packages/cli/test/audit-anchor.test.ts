/** `rbees audit verify --anchor`, and what is about one tenant. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type ChainedEntry, chain, GENESIS } from "@rbees/kit/audit-chain";
import { headEntry } from "@rbees/kit/audit-head";
import { exported, KEY, signedTrailOf } from "./audit-setup.ts";
import { bench } from "./harness.ts";

const SIGNED = signedTrailOf(1000);
const HEADS = SIGNED.filter(({ kind }) => kind === "head.signed");

test("each head of a second file must be in the trail: a trail that was cut off or written anew is found", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  const at = (name: string, content: string) => {
    writeFileSync(join(root, name), content);
    return join(root, name);
  };
  const public_key = at("key.pem", KEY.publicKey.export({ type: "spki", format: "pem" }).toString());
  const anchor = at("heads.ndjson", exported(HEADS));
  const verify = (entries: readonly ChainedEntry[], ...flags: string[]) =>
    run(["rbees", "audit", "verify", at("trail.ndjson", exported(entries)), "--anchor", anchor, ...flags]);
  assert.equal((await verify(SIGNED)).exit, 0);
  assert.equal((await verify(SIGNED, "--public-key", public_key)).exit, 0);
  const cut = await verify(SIGNED.slice(0, 950));
  assert.deepEqual(
    [cut.exit, /ends with entry 950; the head that was kept is entry 1000: what came between was cut off/.test(cut.out)],
    [1, true],
  );
  // The same key, another story: every head is another one.
  let previous = GENESIS;
  const anew = SIGNED.map(({ seq, at_ms, kind }) => {
    const entry =
      kind === "head.signed"
        ? headEntry(at_ms, seq, previous, KEY.privateKey)
        : chain({ at_ms, kind, fields: { job_id: "another" } }, seq, previous);
    previous = entry.hash;
    return entry;
  });
  const rewritten = await verify(anew, "--public-key", public_key);
  assert.deepEqual([rewritten.exit, (rewritten.out.match(/the trail was rewritten up to here/g) ?? []).length], [1, 10]);

  // A crash may have left the beginning of a line.
  writeFileSync(anchor, `${exported(HEADS)}{"hash":"12`);
  assert.equal((await verify(SIGNED)).exit, 0);
  for (const [content, said] of [
    ["", /holds no head of an audit trail; give the orchestrator's audit_anchor/],
    [exported(SIGNED.slice(0, 2)), /Line 1 of .*heads\.ndjson is no head of an audit trail/],
    [
      exported(HEADS).replace(/"hash":"(.)/, (_, digit) => `"hash":"${digit === "0" ? "1" : "0"}`),
      /Line 1 of .* was changed, or is signed with another key/,
    ],
  ] as const) {
    writeFileSync(anchor, content);
    const refused = await verify(SIGNED);
    assert.deepEqual([refused.exit, said.test(refused.err)], [2, true], refused.err);
  }
});

test("list and export have the entries about one tenant and its jobs, and no others", async (t) => {
  const { root, run } = await bench((clean) => t.after(clean));
  let previous = GENESIS;
  const entries = Array.from({ length: 300 }, (_, n) => {
    const tenant = ["acme", "rival", "acme-2"][n % 3] as string;
    const entry = chain({ at_ms: n, kind: "job.ended", fields: { job_id: `job_${n}`, tenant, note: "acme" } }, n + 1, previous);
    previous = entry.hash;
    return entry;
  });
  const file = join(root, "trail.ndjson");
  writeFileSync(file, exported(entries));
  const audit = (...words: string[]) => run(["rbees", "audit", ...words, "--db", file]);
  const acme = entries.filter((_, n) => n % 3 === 0);
  assert.equal((await audit("export", "--tenant", "acme")).out, exported(acme));
  assert.equal((await audit("export", "--tenant", "acme", "--job", "job_3")).out, exported(acme.slice(1, 2)));
  assert.equal((await audit("export", "--tenant", "acme", "--job", "job_4")).out, "");
  assert.equal((await audit("list", "--tenant", "acme")).out.trim().split("\n").length, 100);
  assert.match((await audit("export", "--tenant", "acme", "--format", "csv")).out, /^seq,at,kind,job_id,hash,previous,record\r\n1,/);
});
