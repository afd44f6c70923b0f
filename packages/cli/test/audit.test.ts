/** `rbees audit`: every tampering is found and told where it is, nothing is told of an untouched trail; list and export. */
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { type TestContext, test } from "node:test";
import { type ChainedEntry, chain, GENESIS } from "@rbees/kit/audit-chain";
import { headEntry } from "@rbees/kit/audit-head";
import fc from "fast-check";
import type { Verification } from "../src/audit/verify.ts";
import { exported, KEY, signedTrailOf, trailOf, writeDatabase } from "./audit-setup.ts";
import { bench } from "./harness.ts";

const ENTRIES = trailOf(1000);
const LINES = exported(ENTRIES).split(/(?<=\n)/);
const SIGNED = signedTrailOf(1000);
const SIGNED_LINES = exported(SIGNED).split(/(?<=\n)/);
const BYTES = Buffer.from(LINES.join(""));

async function setup(t: TestContext) {
  const { root, run } = await bench((clean) => t.after(clean));
  const at = (name: string, content: string | Uint8Array) => {
    writeFileSync(join(root, name), content);
    return join(root, name);
  };
  const verify = async (file: string, ...flags: string[]) => {
    const { exit, out } = await run(["rbees", "audit", "verify", file, "--json", ...flags]);
    return { exit, found: JSON.parse(out) as Verification };
  };
  /** Of a trail that was tampered with: what is said, briefly. */
  const problemsIn = async (content: string | Uint8Array) => {
    const { exit, found } = await verify(at("tampered.ndjson", content));
    assert.equal(exit, found.whole ? 0 : 1);
    return found.problems.map(({ problem, where, message }) => ({ problem, where, message }));
  };
  const database = (entries: readonly ChainedEntry[], change = "") => {
    const path = join(root, `${Math.random()}.sqlite`);
    writeDatabase(path, entries);
    const db = new DatabaseSync(path);
    db.exec(change);
    db.close();
    return path;
  };
  return { root, run, at, verify, problemsIn, database };
}

test("of an untouched trail nothing is said, in a database and in an export of it", async (t) => {
  const { run, at, verify, database } = await setup(t);
  const path = database(ENTRIES);
  const shown = await run(["rbees", "audit", "verify", "--db", path]);
  assert.deepEqual([shown.exit, shown.err], [0, ""]);
  assert.match(shown.out, /is whole: 1000 entries, 1 to 1000;/);
  const { out } = await run(["rbees", "audit", "export", "--db", path]);
  assert.equal(out, LINES.join(""));
  const { exit, found } = await verify(at("trail.ndjson", out));
  const { whole, entries, first_seq, last_seq, problem_count } = found;
  assert.deepEqual([exit, whole, entries, first_seq, last_seq, problem_count], [0, true, 1000, 1, 1000, 0]);
});

test("a database where no file can be made beside it is read, unless its log would be missing then", async (t) => {
  const { run, database } = await setup(t);
  const path = database(ENTRIES);
  // What SQLite wants to make can't be made: as on a disk that can only be read, for root as well.
  symlinkSync(join(path, "nowhere"), `${path}-shm`);
  const shown = await run(["rbees", "audit", "verify", "--db", path]);
  assert.deepEqual([shown.exit, shown.err], [0, ""]);
  assert.match(shown.out, /is whole: 1000 entries, 1 to 1000;/);
  writeFileSync(`${path}-wal`, "more");
  assert.match((await run(["rbees", "audit", "verify", "--db", path])).err, /can't be read: .*Give a whole copy/);
});

test("any single byte that is changed is found", async (t) => {
  const { problemsIn } = await setup(t);
  await fc.assert(
    fc.asyncProperty(fc.nat(BYTES.length - 1), fc.integer({ min: 1, max: 255 }), async (where, flip) => {
      const changed = Buffer.from(BYTES);
      changed[where] = (changed[where] as number) ^ flip;
      assert.notDeepEqual(await problemsIn(changed), []);
    }),
    { numRuns: 250 },
  );
});

test("a changed entry is named, and no other one", async (t) => {
  const { problemsIn } = await setup(t);
  await fc.assert(
    fc.asyncProperty(fc.nat(999), async (index) => {
      const forged = LINES.with(index, (LINES[index] as string).replace(/"max_tokens":\d+/, '"max_tokens":7777'));
      const found = await problemsIn(forged.join(""));
      assert.deepEqual(
        found.map(({ problem, where }) => [problem, where]),
        [["changed", `line ${index + 1}`]],
      );
      assert.match(found[0]?.message ?? "", new RegExp(`^Entry ${index + 1} was changed`));
    }),
    { numRuns: 30 },
  );
});

test("any run of entries that is left out is named, but for the end, which only a head that was kept can show", async (t) => {
  const { problemsIn } = await setup(t);
  await fc.assert(
    fc.asyncProperty(fc.nat(998), fc.integer({ min: 1, max: 5 }), async (from, wanted) => {
      const count = Math.min(wanted, 999 - from);
      const [found, ...more] = await problemsIn(LINES.toSpliced(from, count).join(""));
      assert.deepEqual([found?.problem, found?.where, more], ["missing", `line ${from + 1}`, []]);
      const which = count === 1 ? `Entry ${from + 1} is` : `Entries ${from + 1} to ${from + count} are`;
      assert.equal(found?.message, `${which} missing, before entry ${from + count + 1}.`);
    }),
    { numRuns: 50 },
  );
});

test("two entries that changed places are found, and nothing is called missing", async (t) => {
  const { problemsIn } = await setup(t);
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(fc.nat(998), { minLength: 2, maxLength: 2 }), async ([one = 0, other = 0]) => {
      const [a, b] = [LINES[one] as string, LINES[other] as string];
      const found = await problemsIn(LINES.with(one, b).with(other, a).join(""));
      assert.deepEqual([...new Set(found.map(({ problem }) => problem))], ["reordered"]);
      assert.equal(found[0]?.where, `line ${Math.min(one, other) + 2}`);
    }),
    { numRuns: 50 },
  );
});

test("an entry that stands twice, a line that is none, and a file that ends within a line are found", async (t) => {
  const { problemsIn } = await setup(t);
  const said = async (content: string) => (await problemsIn(content)).map(({ problem, where }) => `${problem} ${where}`);
  assert.deepEqual(await said(LINES.toSpliced(10, 0, LINES[3] as string).join("")), ["repeated line 11"]);
  assert.deepEqual(await said(LINES.toSpliced(10, 0, "\n").join("")), ["unreadable line 11"]);
  assert.deepEqual(await said(LINES.with(10, "{}\n").join("")), ["unreadable line 11"]);
  assert.deepEqual(await said(LINES.join("").slice(0, -1)), ["unreadable line 1000"]);
  assert.deepEqual(await said(LINES.join("").slice(0, -100)), ["unreadable line 1000"]);
  assert.deepEqual(await said(""), ["cut_off end"]);
});

test("a file that is no trail at all is told as that, in one sentence", async (t) => {
  const { run, at } = await setup(t);
  const { exit, out, err } = await run(["rbees", "audit", "verify", at("README.md", "# rbees\n\nOne service.\n".repeat(60))]);
  assert.deepEqual([exit, out], [2, ""]);
  assert.match(err, /^rbees: \S+README\.md is no export of an audit trail: it has 180 lines and no entry\. Give a file of [^\n]+\.\n$/);
});

test("an entry that was forged with a hash that fits does not fit what follows", async (t) => {
  const { problemsIn } = await setup(t);
  const { at_ms, previous } = ENTRIES[499] as ChainedEntry;
  const forged = ENTRIES.with(499, chain({ at_ms, kind: "job.ended", fields: { forged: true } }, 500, previous));
  const [found, ...more] = await problemsIn(exported(forged));
  assert.deepEqual([found?.problem, found?.where, more], ["unlinked", "line 501", []]);
});

test("a part of a trail is taken as such when it is called one", async (t) => {
  const { at, verify } = await setup(t);
  const part = at("part.ndjson", LINES.slice(300, 500).join(""));
  const { exit, found } = await verify(part);
  assert.deepEqual([exit, found.problems.map(({ message }) => message)], [1, ["Entries 1 to 300 are missing, before entry 301."]]);
  const { whole, first_seq, last_seq } = (await verify(part, "--part")).found;
  assert.deepEqual([whole, first_seq, last_seq], [true, 301, 500]);
});

test("in a database, too, each column of each row counts", async (t) => {
  const { verify, database } = await setup(t);
  const few = ENTRIES.slice(0, 20);
  const cases: [string, string][] = [
    ["update audit set at_ms = 5 where seq = 7", "changed row 7"],
    ["update audit set kind = 'job.refused' where seq = 7", "changed row 7"],
    ["update audit set record = replace(record, 'model', 'nodel') where seq = 7", "changed row 7"],
    ["update audit set record = cast(cast(record as blob) || x'ff' as text) where seq = 7", "unreadable row 7"],
    ["update audit set hash = replace(hash, substr(hash, 5, 1), 'x') where seq = 7", "changed row 7"],
    ["update audit set previous = hash where seq = 7", "changed row 7"],
    ["delete from audit where seq = 7", "missing row 8"],
    ["delete from audit where seq <= 7", "missing row 8"],
    ["update audit set seq = -seq where seq = 7; update audit set seq = 7 where seq = 8", "changed row -7"],
  ];
  for (const [change, says] of cases) {
    const { exit, found } = await verify(database(few, change));
    assert.equal(exit, 1, change);
    const [first] = found.problems;
    assert.equal(`${first?.problem} ${first?.where}`, says, change);
  }
});

/** How to verify the signed trail: its key and a head that was kept, which is its last entry. */
async function signedSetup(t: TestContext) {
  const all = await setup(t);
  const key = all.at("audit-key.pub.pem", KEY.publicKey.export({ type: "spki", format: "pem" }).toString());
  const head = all.at("head.ndjson", SIGNED_LINES[999] as string);
  const said = async (content: string, ...flags: string[]) => {
    const { exit, found } = await all.verify(all.at("signed.ndjson", content), ...flags);
    assert.equal(exit, found.problem_count === 0 ? 0 : 1);
    return found.problems.map(({ problem, where }) => `${problem} ${where}`);
  };
  return { ...all, key, head, said };
}

test("a signed trail that nobody touched is whole, and told how far it is signed", async (t) => {
  const { run, at, key, head, said } = await signedSetup(t);
  assert.deepEqual(await said(SIGNED_LINES.join(""), "--public-key", key, "--head", head), []);
  const file = at("longer.ndjson", exported(signedTrailOf(1003)));
  // Signatures of another run, but of the same key: Ed25519 gives the same ones.
  const { out } = await run(["rbees", "audit", "verify", file, "--public-key", key, "--head", head]);
  assert.match(
    out,
    /signed up to entry 1000; the 3 entries after it are not signed yet\. The last signature is of 2026-11-26T10:16:39\.000Z\.\n$/,
  );
  assert.match((await run(["rbees", "audit", "verify", file])).out, /Signatures were not checked: --public-key FILE does that\.\n$/);
});

test("a tail that was cut off, wherever, is found by a head that was kept", async (t) => {
  const { key, head, said } = await signedSetup(t);
  await fc.assert(
    fc.asyncProperty(fc.nat(999), async (length) => {
      const found = await said(SIGNED_LINES.slice(0, length).join(""), "--head", head);
      assert.deepEqual(found, ["cut_off end"]);
    }),
    { numRuns: 50 },
  );
  await fc.assert(
    fc.asyncProperty(fc.nat(Buffer.byteLength(SIGNED_LINES.join("")) - 1), async (bytes) => {
      const found = await said(SIGNED_LINES.join("").slice(0, bytes), "--public-key", key, "--head", head);
      assert.ok(found.includes("cut_off end") || found.includes("unreadable line 1000"), String(found));
    }),
    { numRuns: 50 },
  );
});

test("any single byte of a signed trail that is changed is found, also in heads, with the key or without", async (t) => {
  const { problemsIn } = await setup(t);
  const bytes = Buffer.from(SIGNED_LINES.slice(0, 100).join(""));
  const from = Buffer.byteLength(SIGNED_LINES.slice(0, 99).join(""));
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: from, max: bytes.length - 1 }), fc.integer({ min: 1, max: 255 }), async (where, flip) => {
      const changed = Buffer.from(bytes);
      changed[where] = (changed[where] as number) ^ flip;
      assert.notDeepEqual(await problemsIn(changed), []);
    }),
    { numRuns: 150 },
  );
});

test("a trail that was written anew is found by its key, and by a head that was kept", async (t) => {
  const { key, head, said } = await signedSetup(t);
  const foreign = generateKeyPairSync("ed25519").privateKey;
  const anew = exported(signedTrailOf(1000, foreign, { forged: true }));
  assert.deepEqual(await said(anew), [], "without key and head it can't be found");
  assert.deepEqual(await said(anew, "--head", head), ["rewritten line 1000"]);
  const by_key = await said(anew, "--public-key", key);
  assert.deepEqual([by_key.length, by_key[0], by_key.at(-1)], [11, "unsigned line 100", "unsigned end"]);
  // Without any head, and with the true heads put into forged entries' midst.
  assert.deepEqual(await said(exported(trailOf(1000)), "--public-key", key), ["unsigned end"]);
  const { at_ms, record } = SIGNED[99] as ChainedEntry;
  const forged = signedTrailOf(99, foreign, { forged: true });
  const { signature, key: id } = JSON.parse(record);
  forged.push(chain({ at_ms, kind: "head.signed", fields: { key: id, signature } }, 100, (forged[98] as ChainedEntry).hash));
  assert.deepEqual(await said(exported(forged), "--public-key", key), ["forged line 100", "unsigned end"]);
});

test("a trail whose key was renewed is verified with both keys", async (t) => {
  const { at, key, said } = await signedSetup(t);
  const next = generateKeyPairSync("ed25519");
  const next_key = at("next.pub.pem", next.publicKey.export({ type: "spki", format: "pem" }).toString());
  const { at_ms, hash } = SIGNED[999] as ChainedEntry;
  const content = SIGNED_LINES.join("") + exported([headEntry(at_ms, 1001, hash, next.privateKey)]);
  assert.deepEqual(await said(content, "--public-key", key, "--public-key", next_key), []);
  assert.deepEqual(await said(content, "--public-key", key), ["unsigned line 1001"]);
});

test("the last head is printed, and what is given as key or head must be one", async (t) => {
  const { run, at, key, head, database } = await signedSetup(t);
  assert.equal((await run(["rbees", "audit", "head", "--db", database(signedTrailOf(1050))])).out, SIGNED_LINES[999]);
  const none = await run(["rbees", "audit", "head", "--db", database(ENTRIES)]);
  assert.deepEqual([none.exit, none.out], [6, ""]);
  assert.match(none.err, /No head is signed in .* yet/);
  const trail = at("trail.ndjson", SIGNED_LINES.join(""));
  const cases: [string[], RegExp][] = [
    [["--public-key", trail], /holds no public Ed25519 key in PEM; give the orchestrator's audit-key\.pub\.pem\.$/],
    [["--public-key", at("private.pem", KEY.privateKey.export({ type: "pkcs8", format: "pem" }))], /holds no public Ed25519 key/],
    [["--head", at("entry.ndjson", SIGNED_LINES[5] as string)], /is no head of an audit trail/],
    [
      ["--head", at("other.ndjson", (SIGNED_LINES[999] as string).replace("10:16:39", "10:16:38"))],
      /was changed, or is signed with another key/,
    ],
    [
      [
        "--public-key",
        key,
        "--head",
        at("foreign.ndjson", exported([headEntry(1, 5, GENESIS, generateKeyPairSync("ed25519").privateKey)])),
      ],
      /signed with another key/,
    ],
  ];
  for (const [flags, says] of cases) {
    const { exit, err } = await run(["rbees", "audit", "verify", trail, ...flags]);
    assert.equal(exit, 2, err);
    assert.match(err.trim(), says);
  }
  assert.equal((await run(["rbees", "audit", "verify", trail, "--head", head])).exit, 0);
});

test("a job is proven by the part of the trail up to the next head, and by nothing that is not signed", async (t) => {
  const { run, at, verify, key, database } = await signedSetup(t);
  const db = ["--db", database(signedTrailOf(450))];
  const { exit, out, err } = await run(["rbees", "audit", "prove", "job_150", ...db]);
  assert.deepEqual([exit, out], [0, SIGNED_LINES.slice(150, 200).join("")]);
  assert.match(err, /^1 entry about job_150, proven by entries 151 to 200: rbees audit verify FILE --part --public-key/);
  const proof = at("proof.ndjson", out);
  const { found } = await verify(proof, "--part", "--public-key", key);
  assert.deepEqual([found.whole, found.signed?.seq], [true, 200]);
  // Whatever of it is changed, it proves nothing any more.
  const lines = out.split(/(?<=\n)/);
  for (const forged of [lines.slice(0, -1), lines.toSpliced(7, 1), lines.with(0, (lines[0] as string).replace("job_150", "job_151"))]) {
    assert.equal((await verify(at("forged.ndjson", forged.join("")), "--part", "--public-key", key)).exit, 1);
  }
  // From an export as from the database.
  const trail = at("trail.ndjson", SIGNED_LINES.join(""));
  assert.equal((await run(["rbees", "audit", "prove", "job_150", "--db", trail])).out, out);
  const early = await run(["rbees", "audit", "prove", "job_440", ...db]);
  assert.deepEqual([early.exit, early.out], [1, ""]);
  assert.match(early.err, /job_440 is not signed yet: .* Try again then\./);
  const absent = await run(["rbees", "audit", "prove", "job_x", ...db]);
  assert.deepEqual([absent.exit, absent.out], [6, ""]);
});

test("list and export take a time and a job; CSV has a row for each entry", async (t) => {
  const { root, run, verify, at, database } = await setup(t);
  const db = ["--db", database(ENTRIES)];
  const window = ["--from", "2026-11-26T10:01", "--to", "2026-11-26T10:02:00Z"];
  const part = await run(["rbees", "audit", "export", ...db, ...window]);
  assert.equal(part.out, LINES.slice(60, 120).join(""));
  assert.equal((await verify(at("part.ndjson", part.out), "--part")).exit, 0);
  // The same of an export as of the database.
  assert.equal((await run(["rbees", "audit", "export", "--db", at("all.ndjson", BYTES), ...window])).out, part.out);

  const listed = await run(["rbees", "audit", "list", ...db, "--job", "job_20", "--json"]);
  assert.deepEqual(
    listed.out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).seq),
    [81, 82, 83, 84],
  );
  const shown = await run(["rbees", "audit", "list", ...db, "--job", "job_20"]);
  assert.match(shown.out, /^ +81 {2}2026-11-26T10:01:20\.000Z {2}job\.accepted {6}job_id=job_20 max_tokens=80 model=/);

  const csv = (await run(["rbees", "audit", "export", ...db, "--format", "csv", "--job", "job_3"])).out.split("\r\n");
  assert.equal(csv.length, 6);
  assert.equal(csv[0], "seq,at,kind,job_id,hash,previous,record");
  const { hash, previous, record } = ENTRIES[12] as ChainedEntry;
  assert.equal(csv[1], `13,2026-11-26T10:00:12.000Z,"job.accepted","job_3",${hash},${previous},"${record.replaceAll('"', '""')}"`);
  assert.ok(readFileSync(join(root, "all.ndjson")).equals(BYTES));
});

test("what can't be read is said in one line, with what to do", async (t) => {
  const { root, run, at, database } = await setup(t);
  const other = join(root, "other.sqlite");
  new DatabaseSync(other).exec("create table bees (n integer)");
  const cases: [string[], number, RegExp][] = [
    [["verify"], 6, /There is no file .*orcd\.sqlite; give the path of one that is there\.$/],
    [["verify", join(root, "absent")], 6, /There is no file/],
    [["verify", root], 2, /is a folder; give the database/],
    [["verify", other], 1, /no such table: audit\. Give the database of an orchestrator/],
    [["verify", other, "--db", other], 2, /not both/],
    [["list", "--from", "yesterday"], 2, /Give a date or a time, such as/],
    [["list", "--db", at("poem", "no entry\n")], 1, /poem, line 1: there is no entry to be read\. rbees audit verify says/],
    [["list", "--db", database(ENTRIES.slice(0, 3), "update audit set record = 'x' where seq = 2")], 1, /row 2: there is no entry/],
  ];
  for (const [argv, code, says] of cases) {
    const { exit, err } = await run(["rbees", "audit", ...argv]);
    assert.deepEqual([exit, err.split("\n").length], [code, 2], `${argv.join(" ")}: ${err}`);
    assert.match(err.trim(), says);
  }
});
