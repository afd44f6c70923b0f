/** Workers and orchestrators of different versions: who goes with whom, and what an older worker does not know. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { Embed } from "../src/embed.ts";
import { ORCHESTRATOR_SPEAKS, protocolMismatch, tooOld, WORKER_SPEAKS } from "../src/protocol.ts";
import { FEATURES, type Feature, REASONING_EFFORTS } from "../src/sets.ts";
import { Tokenize } from "../src/tokenize.ts";
import { Beat, Execute, RegisterWorker } from "../src/worker.ts";

test("who goes with whom: each says its number and the lowest of the other that it can work with", () => {
  const spoken = (protocol: number, protocol_min: number) => ({ protocol, protocol_min });
  for (const [worker, orchestrator, old] of [
    [WORKER_SPEAKS, ORCHESTRATOR_SPEAKS, undefined],
    [spoken(0, 0), ORCHESTRATOR_SPEAKS, undefined],
    [spoken(9, 0), spoken(1, 0), undefined],
    [spoken(9, 1), spoken(1, 0), undefined],
    [spoken(9, 2), spoken(1, 0), "orchestrator"],
    [spoken(2, 0), spoken(9, 2), undefined],
    [spoken(1, 0), spoken(9, 2), "worker"],
    [spoken(0, 0), spoken(1, 1), "worker"],
  ] as const) {
    assert.equal(tooOld(worker, orchestrator), old, JSON.stringify({ worker, orchestrator }));
  }
});

test("a refusal says both versions, and which of the two to upgrade; it is not final", () => {
  const worker = { id: "w1", version: "0.1.0", protocol: 1, protocol_min: 0 };
  const newer = { version: "0.3.0", protocol: 3, protocol_min: 2 };
  const refused = protocolMismatch(worker, newer);
  assert.deepEqual([refused?.code, refused?.body("c").error.retriable], ["PROTOCOL_MISMATCH", true]);
  assert.equal(
    refused?.message,
    "Worker w1 is rbees 0.1.0 (protocol 1), the orchestrator rbees 0.3.0 (protocol 3), which works with workers from protocol 2 on: upgrade the worker.",
  );
  assert.deepEqual(refused?.details, {
    upgrade: "worker",
    worker: { protocol: 1, protocol_min: 0 },
    orchestrator: { protocol: 3, protocol_min: 2 },
  });
  const other = protocolMismatch({ ...worker, version: "", protocol: 5, protocol_min: 4 }, newer);
  assert.match(
    other?.message ?? "",
    /w1 is rbees of a version that it does not say \(protocol 5\), .* from protocol 4 on: upgrade the orchestrator\.$/,
  );
  assert.equal(protocolMismatch({ ...worker, protocol: 2 }, newer), undefined);
});

test("what a newer worker says of itself beyond what is known is read over", () => {
  const registration = { id: "w1", host: "127.0.0.1", port: 8001, model: "m", features: ["grammar", "telepathy"] };
  const read = RegisterWorker.parse({ ...registration, protocol: 9, moods: ["glad"] });
  assert.deepEqual([read.features, read.protocol, "moods" in read], [["grammar", "telepathy"], 9, false]);
  assert.equal(RegisterWorker.parse(registration).protocol, 0);
  const beat = { slots_busy: 0, memory_bytes: 1, tokens_per_second: 0 };
  assert.deepEqual(Beat.parse({ ...beat, mood: "glad" }), Beat.parse(beat));
});

const TURN = `messages messages.content messages.name messages.reasoning_content messages.role messages.role=assistant messages.role=system
  messages.role=tool messages.role=user messages.tool_call_id messages.tool_calls messages.tool_calls.function
  messages.tool_calls.function.arguments messages.tool_calls.function.name messages.tool_calls.id messages.tool_calls.type
  messages.tool_calls.type=function prompt raw tool_choice tool_choice.name tool_choice=auto tool_choice=none tool_choice=required tools
  tools.function tools.function.description tools.function.name tools.function.parameters tools.type tools.type=function`;

/** What a worker takes, by the protocol from which it does. What a release had is never edited. */
const KNOWN: Readonly<Record<number, Record<"execute" | "embed" | "tokenize", string>>> = {
  1: {
    execute: `${TURN} attempt cache_salt continue_from continue_from.tokens deadline fit_context frequency_penalty grammar job_id json_schema
      logit_bias logprobs lora max_tokens min_p parallel_tool_calls presence_penalty repeat_last_n repeat_penalty seed separate_reasoning stop
      temperature time_left_ms token_prompt top_k top_p`,
    embed: "attempt deadline inputs job_id time_left_ms truncate",
    tokenize: `${TURN} with_tokens`,
  },
};

/** What came later and goes only to workers with a feature, as \`needsOf\` in the orchestrator has it: it needs no number. */
const BY_FEATURE: Readonly<Record<string, Feature>> = Object.fromEntries(
  ["", ...REASONING_EFFORTS.map((effort) => `=${effort}`)].map((value) => [`reasoning_effort${value}`, "reasoning_effort"]),
);

test("what a worker takes only grows: what is added has a number from which workers know it, or a feature", () => {
  const numbers = Object.keys(KNOWN).map(Number);
  assert.equal(Math.max(...numbers), WORKER_SPEAKS.protocol);
  assert.equal(ORCHESTRATOR_SPEAKS.protocol, WORKER_SPEAKS.protocol);
  for (const feature of Object.values(BY_FEATURE)) assert.ok(FEATURES.includes(feature), feature);
  for (const [name, schema] of [
    ["execute", Execute],
    ["embed", Embed],
    ["tokenize", Tokenize],
  ] as const) {
    const known = numbers.flatMap((number) => KNOWN[number]?.[name].split(/\s+/) ?? []);
    const words = wordsOf(z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }));
    const added = words.filter((word) => !known.includes(word) && !Object.hasOwn(BY_FEATURE, word));
    assert.deepEqual(added, [], `${name}: packages/contracts/src/protocol.ts says what to do about what is added`);
    const gone = known.filter((word) => !words.includes(word));
    assert.deepEqual(gone, [], `${name}: an older orchestrator still sends it`);
  }
});

interface JsonSchema {
  $ref?: string;
  $defs?: Record<string, JsonSchema>;
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  enum?: unknown[];
  const?: unknown;
}

/** Each field by its path, and each value of those that have a closed set of them. */
function wordsOf(schema: object): string[] {
  const { $defs = {} } = schema as JsonSchema;
  const within = ({ $ref, properties, items, anyOf, oneOf, ...one }: JsonSchema, at: string): string[] => {
    const meant = $ref === undefined ? undefined : $defs[$ref.replace("#/$defs/", "")];
    const values = one.enum ?? (one.const === undefined ? [] : [one.const]);
    return [
      ...(meant === undefined ? [] : within(meant, at)),
      ...Object.entries(properties ?? {}).flatMap(([name, inner]) => [at + name, ...within(inner, `${at}${name}.`)]),
      ...[...(anyOf ?? []), ...(oneOf ?? []), ...(items === undefined ? [] : [items])].flatMap((inner) => within(inner, at)),
      ...values.map((value) => `${at.slice(0, -1)}=${value}`),
    ];
  };
  return [...new Set(within(schema as JsonSchema, ""))];
}
