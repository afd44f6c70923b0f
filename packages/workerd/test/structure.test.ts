/** Answers that are held to a schema or a grammar, token by token, by the engine that can, on the model that rbees ships. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Item, parseGbnf } from "@rbees/kit/grammar/gbnf";
import { grammarOf } from "@rbees/kit/grammar/grammar-of";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import { ANSWER, bytesOf, chain } from "../../../models/fixtures/scripted.ts";
import { cases } from "../../../test/support/cases.ts";
import { Random } from "../../../test/support/random.ts";
import { objectSchema } from "../../../test/support/schemas.ts";
import type { Workerd } from "../src/workerd.ts";
import { LIBRARIES } from "./engine-options.ts";
import { ask, type Body, health, post, scripted, startWorker } from "./support.ts";

const model = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const skip = existsSync(model) ? false : "models/demo/demo.gguf is not there yet";
/** The most tokens of an answer. */
const TOKENS = 1400;
const SLOTS = 8;
const SCHEMAS = cases({ few: 24, all: 500 });
const PARTS = Math.max(1, SCHEMAS / 50);
const ajv = new Ajv2020({ strict: false });
formats.default(ajv);

/** The most bytes that a grammar allows, and so the most tokens. */
function longest(text: string): number {
  const grammar = parseGbnf(text);
  const known = new Map<string, number>();
  const rule = (name: string): number => {
    const found = known.get(name);
    if (found !== undefined) return found;
    known.set(name, Number.POSITIVE_INFINITY);
    const most = Math.max(...(grammar.get(name) ?? []).map(sequence));
    known.set(name, most);
    return most;
  };
  const sequence = (items: readonly Item[]): number => items.reduce((sum, item) => sum + times(item), 0);
  const times = ({ of, max }: Item): number => (max === 0 ? 0 : one(of) * (max ?? Number.POSITIVE_INFINITY));
  const one = (of: Item["of"]): number => {
    if (of.kind === "text") return Buffer.byteLength(of.text);
    if (of.kind === "rule") return rule(of.name);
    if (of.kind === "group") return Math.max(...of.alternatives.map(sequence));
    const ascii = of.kind === "set" && !of.negated && of.ranges.every(([, to]) => to < 0x80);
    return ascii ? 1 : 4;
  };
  return rule("root");
}

/** What a worker says to many requests, as many at once as it has slots. */
async function askAll(worker: Workerd, bodies: readonly Body[], took: (at: number, text: string, stop: string | undefined) => void) {
  let next = 0;
  const lane = async () => {
    for (let at = next++; at < bodies.length; at = next++) {
      const { text, end, error } = await ask(worker, { job_id: `job-${at}`, ...bodies[at] });
      assert.equal(error, undefined, JSON.stringify(bodies[at]));
      took(at, text, end?.stop_reason);
    }
  };
  await Promise.all(Array.from({ length: SLOTS }, lane));
}

/** Schemas whose longest answer fits the context: nothing is cut off. */
function schemasFrom(seed: number, count: number): Record<string, unknown>[] {
  const schemas: Record<string, unknown>[] = [];
  for (let next = seed; schemas.length < count; next += 1) {
    const schema = objectSchema(new Random(next), 2);
    if (longest(grammarOf({ json_schema: schema }) ?? "") <= TOKENS) schemas.push(schema);
  }
  return schemas;
}

test("generated schemas: the answer always parses, validates and ends by itself", { skip }, async (t) => {
  const worker = await startWorker({ model, engine: "libllama", ctx: TOKENS + 128, slots: SLOTS });
  assert.ok((await health(worker)).features.includes("grammar"));
  for (let part = 0; part < PARTS; part += 1) {
    await t.test(`part ${part + 1} of ${PARTS}`, async () => {
      const schemas = schemasFrom(1 + part * 1000, SCHEMAS / PARTS);
      const bodies = schemas.map((json_schema, seed) => ({
        prompt: "Tell me about a lighthouse keeper.",
        json_schema,
        ...{ max_tokens: TOKENS + 1, temperature: seed % 4 === 0 ? 0 : 1, seed },
      }));
      let answered = 0;
      await askAll(worker, bodies, (at, text, stop) => {
        const schema = schemas[at] as Record<string, unknown>;
        assert.equal(stop, "EOS");
        const validate = ajv.compile(schema);
        assert.ok(validate(JSON.parse(text)), `${text} of ${JSON.stringify(schema)}: ${JSON.stringify(validate.errors)}`);
        answered += 1;
      });
      assert.equal(answered, SCHEMAS / PARTS);
    });
  }
});

test("on the other engine answers parse and validate too", { skip }, async () => {
  const worker = await startWorker({ model, engine: "node-llama-cpp", ctx: TOKENS + 128, slots: SLOTS });
  const schemas = schemasFrom(1, 2 * SLOTS);
  const bodies = schemas.map((json_schema, seed) => ({ prompt: "Who?", json_schema, max_tokens: TOKENS + 1, temperature: seed % 2, seed }));
  await askAll(worker, bodies, (at, text, stop) => {
    assert.deepEqual([stop, ajv.validate(schemas[at] as object, JSON.parse(text))], ["EOS", true], text);
  });
});

test("an answer that another worker continues goes on exactly, in the middle of a string too, and on the other engine", {
  skip,
}, async () => {
  const workers = await Promise.all(LIBRARIES.map((engine) => startWorker({ model, engine, ctx: 512, deterministic: true })));
  const [worker] = workers as [Workerd, ...Workerd[]];
  const json_schema = {
    type: "object",
    properties: {
      name: { type: "string", minLength: 8, maxLength: 20 },
      tags: { type: "array", items: { enum: ["a", "b"] }, minItems: 2, maxItems: 4 },
    },
    required: ["name", "tags"],
    additionalProperties: false,
  };
  const body = { prompt: "Who are you?", json_schema, max_tokens: 300, temperature: 1, seed: 3 };
  const whole = await ask(worker, body);
  JSON.parse(whole.text);
  for (const share of [0.2, 0.5, 0.9]) {
    const sent = whole.tokens.slice(0, Math.floor(whole.tokens.length * share));
    for (const another of workers) {
      const rest = await ask(another, { ...body, continue_from: { tokens: sent.flatMap(({ ids }) => ids) } });
      assert.equal(sent.map(({ t }) => t).join("") + rest.text, whole.text);
    }
  }
  const refused = await post(worker, "/execute", { job_id: "j", ...body, continue_from: { tokens: [...whole.ids].reverse() } });
  assert.equal(refused.status, 400);
  assert.match(await refused.text(), /continue_from\.tokens: the grammar does not allow number 0 of them/);
});

for (const engine of LIBRARIES) {
  test(`${engine}: what the model wants to say and may not is left out, and what it may say comes as it would without a grammar`, async () => {
    const worker = await startWorker({
      model: scripted(`held-${engine}`, { edges: chain(ANSWER, ["Hello", ", ", "world", "!"]) }),
      engine,
      ctx: 256,
    });
    const say = (grammar: string | undefined, more: Body = {}) =>
      ask(worker, { prompt: "hi", grammar, max_tokens: 20, temperature: 0, ...more });
    const free = await say(undefined);
    const held = await say('root ::= "Hello, world!"');
    assert.deepEqual(held.ids, free.ids);
    assert.equal((await say('root ::= "Hello" | "Bye"')).text, "Hello");
    assert.equal((await say('root ::= [a-c]{3} "é🐝"')).text.slice(3), "é🐝");
    const cut = await say('root ::= "x"{40}', { max_tokens: 5 });
    assert.deepEqual([cut.end?.stop_reason, /^x+$/.test(cut.text)], ["MAX_TOKENS", true]);
    // A stop string ends the answer, whatever the grammar still wants.
    assert.equal((await say('root ::= "one, two, three"', { stop: ["two"] })).end?.stop_reason, "STOP_SEQUENCE");
  });
}

for (const engine of LIBRARIES) {
  test(`${engine}: names of special tokens are no text: a grammar that allows any string does not let them through`, async () => {
    const edges = chain(ANSWER, [...bytesOf('"'), "<|im_start|>", "user"]);
    const worker = await startWorker({ model: scripted(`special-${engine}`, { edges }), engine, ctx: 256 });
    const { text, ids, end } = await ask(worker, {
      prompt: "hi",
      json_schema: { type: "string", minLength: 4, maxLength: 6 },
      max_tokens: 60,
      temperature: 0,
    });
    assert.equal(end?.stop_reason, "EOS");
    const said = JSON.parse(text) as string;
    assert.ok([...said].length >= 4 && [...said].length <= 6, text);
    assert.ok(ids.length > 0);
  });
}

test("what can't be kept to is refused with the part that can't, before a slot is taken", async () => {
  const worker = await startWorker({ model: scripted("refuses", { edges: chain(ANSWER, [" a"]) }), engine: "libllama", ctx: 256 });
  const cases: [body: Body, field: string, why: RegExp][] = [
    [{ grammar: "root ::= nothing" }, "grammar", /rule root names nothing/],
    [{ grammar: "root ::= root" }, "grammar", /begins with itself/],
    [{ json_schema: { type: "object", properties: { a: { not: {} } } } }, "json_schema", /\/properties\/a\/not can't be kept to/],
    [{ json_schema: {}, grammar: 'root ::= "a"' }, "grammar", /give either grammar or json_schema/],
    [{ json_schema: 7 }, "json_schema", /must be a JSON schema/],
  ];
  for (const [body, field, why] of cases) {
    const response = await post(worker, "/execute", { job_id: "j", prompt: "hi", ...body });
    const { error } = (await response.json()) as { error: { message: string; param: string } };
    assert.deepEqual([response.status, error.param], [400, field]);
    assert.match(error.message, why);
  }
  assert.equal((await health(worker)).slots_busy, 0);
});
