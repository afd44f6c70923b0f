/** The demo model that rbees ships, through the worker. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { ask, startWorker } from "./support.ts";

const model = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const skip = existsSync(model) ? false : "models/demo/demo.gguf is not there yet";

test("the demo model answers, and a seeded answer continued in the middle is the same", { skip }, async () => {
  const worker = await startWorker({ model, ctx: 512, deterministic: true });
  const body = { prompt: "Hello! Who are you?", max_tokens: 40, temperature: 0.8, seed: 7 };
  const whole = await ask(worker, body);
  assert.equal(whole.error, undefined);
  assert.ok(whole.text.trim().length > 10, JSON.stringify(whole.text));
  assert.ok(!whole.text.includes("\uFFFD"), JSON.stringify(whole.text));
  assert.equal((await ask(worker, body)).text, whole.text);
  const cut = Math.floor(whole.tokens.length / 2);
  const sent = whole.tokens.slice(0, cut);
  const rest = await ask(worker, { ...body, continue_from: { tokens: sent.flatMap(({ ids }) => ids) } });
  assert.equal(sent.map(({ t }) => t).join("") + rest.text, whole.text);
});
