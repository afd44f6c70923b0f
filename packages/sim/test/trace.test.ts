/** Traces: two formats, plain and gzip, and what is said about a bad one. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { TraceError, type TraceOptions, TraceReader } from "../src/trace.ts";
import { readTrace } from "../src/trace-file.ts";

const folder = mkdtempSync(join(tmpdir(), "rbees-trace-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const JSON_LINES = `{"timestamp": 27482, "input_length": 700, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 100, "output_length": 9, "hash_ids": [48]}
`;
const CSV = `TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.6805900,374,44\r
2023-11-16 18:15:50.9951690,396,109\r
`;

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function read(text: string, options?: TraceOptions) {
  const reader = new TraceReader(options);
  for (const line of text.split("\n")) reader.take(line);
  return reader.requests();
}

/** What is wrong with a trace. */
function problems(text: string): readonly string[] {
  try {
    read(text);
  } catch (error) {
    assert.ok(error instanceof TraceError);
    return error.problems;
  }
  assert.fail("nothing was wrong");
}

test("JSON lines and CSV are read, plain or gzip, whatever the file is called", async () => {
  const from_json = [
    { at_ms: 0, prompt_tokens: 700, output_tokens: 52, prefix: [46, 47] },
    { at_ms: 3053, prompt_tokens: 100, output_tokens: 9, prefix: [48] },
  ];
  assert.deepEqual(await readTrace(file("plain.gz", JSON_LINES)), from_json);
  assert.deepEqual(await readTrace(file("packed.jsonl", gzipSync(JSON_LINES))), from_json);
  for (const content of [CSV, `\uFEFF${CSV}`, gzipSync(CSV)]) {
    const [first, second, ...more] = await readTrace(file("a.csv", content));
    assert.deepEqual(first, { at_ms: 0, prompt_tokens: 374, output_tokens: 44, prefix: [] });
    assert.deepEqual([second?.prompt_tokens, second?.output_tokens, more.length], [396, 109, 0]);
    assert.ok(Math.abs((second?.at_ms ?? 0) - 4314.579) < 0.001, `${second?.at_ms}`);
  }
});

test("requests of one time step are spread evenly until the next, the last ones over a usual step", () => {
  const row = (timestamp: number) => `{"timestamp":${timestamp},"input_length":1,"output_length":1}`;
  const times = (text: string[], options?: TraceOptions) => read(text.join("\n"), options).map(({ at_ms }) => at_ms);
  assert.deepEqual(times([row(0), row(0), row(0), row(3000), row(3000), row(6000), row(6000)]), [0, 1000, 2000, 3000, 4500, 6000, 7500]);
  assert.deepEqual(times([row(0), row(3000), row(6000), row(6000), row(90_000)]), [0, 3000, 6000, 7500, 90_000], "a pause is no step");
  assert.deepEqual(times([row(5000), row(2000)]), [0, 3000], "in the order of arrival");
  assert.deepEqual(times([row(7), row(7)]), [0, 0], "one step alone says nothing of its length");
});

test("rate makes arrivals faster, limit takes the first", () => {
  assert.deepEqual(
    read(JSON_LINES, { rate: 2 }).map(({ at_ms }) => at_ms),
    [0, 1526.5],
  );
  assert.equal(read(JSON_LINES, { limit: 1 }).length, 1);
  assert.equal(read(`${JSON_LINES}broken`, { limit: 2 }).length, 2, "what comes after the limit is not looked at");
});

test("each bad line is told with its number and what is wrong with it", () => {
  const good = '{"timestamp":0,"input_length":1,"output_length":1}';
  assert.deepEqual(
    problems(
      [
        good,
        "{",
        '{"timestamp":-1,"input_length":1,"output_length":1}',
        "",
        '{"timestamp":0,"input_length":"7","output_length":1}',
        '{"timestamp":0,"input_length":7,"output_length":0}',
        '{"timestamp":0,"input_length":513,"output_length":1,"hash_ids":[1,2,3]}',
        "[]",
        '{"timestamp":0,"input_length":7,"output_length":1,"hash_ids":["a"]}',
      ].join("\n"),
    ),
    [
      'line 2: "{" is not JSON',
      "line 3: timestamp must be milliseconds, 0 or more",
      "line 5: input_length must be a whole number from 1",
      "line 6: output_length must be a whole number from 1",
      "line 7: 3 hash_ids are more than 513 tokens have blocks of 512",
      "2 more lines like these",
    ],
  );
  assert.deepEqual(problems(`${CSV}yesterday,1,1\n2023-11-16 18:15:46.1,,1\n2023-11-16 18:15:46.1,1`), [
    'line 4: TIMESTAMP "yesterday" is no date and time',
    "line 5: ContextTokens must be a whole number from 1",
    'line 6: "2023-11-16 18:15:46.1,1" has 2 columns, not 3',
  ]);
});

test("what is no trace at all is told once", async () => {
  assert.match(problems("a;b\nc;d")[0] ?? "", /^line 1: "a;b" is neither a JSON object nor the header TIMESTAMP,/);
  assert.deepEqual(problems(""), ["it holds no request"]);
  await assert.rejects(readTrace(file("empty", "")), /it holds no request/);
  await assert.rejects(readTrace(file("cut.gz", gzipSync(JSON_LINES.repeat(50)).subarray(0, 60))), /gzip data are damaged or cut off/);
  await assert.rejects(readTrace(join(folder, "absent")), { code: "ENOENT" });
});
