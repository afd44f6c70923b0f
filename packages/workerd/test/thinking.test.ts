/** How long to think, told to the templates of many families (`models/fixtures/templates`). */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import type { ReasoningEffort } from "@rbees/contracts/sets";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { type Renderer, render } from "../src/chat/render.ts";
import { thinkingFeature, told } from "../src/chat/thinking.ts";
import { libraryFolder } from "../src/libllama/library.ts";
import { type NativeRenderers, nativeRenderer } from "../src/llama/renderer.ts";
import { ask, post, scripted, startWorker } from "./support.ts";

const folder = fileURLToPath(new URL("../../../models/fixtures/templates/", import.meta.url));
const families = readdirSync(folder).flatMap((name) => (name.endsWith(".jinja") ? [name.replace(".jinja", "")] : []));
const native = nativeRenderer(createRequire(import.meta.url)(join(libraryFolder(), "llama-addon.node")) as NativeRenderers);
assert.ok(native !== undefined);

function model(family: string): Renderer {
  return {
    bos_text: "",
    eos_text: "",
    chat_template: readFileSync(join(folder, `${family}.jinja`), "utf8"),
    render_native: native as never,
  };
}

function prompt(family: string, effort: ReasoningEffort | undefined): string {
  const asked = model(family);
  const messages = [{ role: "user", content: "hi" }];
  return render(asked, { messages, ...(effort === undefined ? {} : told(effort, asked.chat_template)) });
}

test("a worker says that its model can be told exactly where it makes a difference to the prompt", () => {
  const can = families.filter((family) => thinkingFeature(model(family)).includes("reasoning_effort"));
  const known = ["apertus", "bielik-3", "deepseek-3.1", "deepseek-r1-qwen", "glm-4.6", "gpt-oss", "granite-3.3", "qwen3", "qwq", "smollm3"];
  assert.deepEqual(can, known);
  for (const family of families) assert.equal(prompt(family, "none") !== prompt(family, "high"), can.includes(family), family);
});

test("each family is told in its own way", () => {
  assert.match(prompt("qwen3", "none"), /<think>\n\n<\/think>\n\n$/);
  assert.doesNotMatch(prompt("qwen3", "low"), /<think>/);
  assert.match(prompt("deepseek-3.1", "none"), /<\/think>$/);
  assert.match(prompt("deepseek-3.1", "high"), /<think>$/);
  assert.match(prompt("gpt-oss", undefined), /Reasoning: medium/);
  // It knows three.
  for (const [effort, word] of [
    ["none", "low"],
    ["minimal", "low"],
    ["medium", "medium"],
    ["xhigh", "high"],
  ] as const)
    assert.match(prompt("gpt-oss", effort), new RegExp(`Reasoning: ${word}\\n`), effort);
});

test("a worker tells its model, and refuses by name what its template has no place for", async () => {
  const edges = chain(ANSWER, [" ok"]);
  const asks = scripted("asks", { edges, template: "{{ messages[0].content }}{% if enable_thinking is false %}no no no{% endif %}" });
  const plain = scripted("plain", { edges, template: "{{ messages[0].content }}" });
  const [told_one, other] = await Promise.all([startWorker({ model: asks }), startWorker({ model: plain })]);
  const tokens_in = async (more: object) => (await ask(told_one, { prompt: "hi", max_tokens: 1, ...more })).end?.tokens_in ?? 0;
  const usual = await tokens_in({});
  assert.equal(await tokens_in({ reasoning_effort: "high" }), usual);
  assert.ok((await tokens_in({ reasoning_effort: "none" })) > usual);
  const refused = await post(other, "/execute", { job_id: "j1", prompt: "hi", max_tokens: 1, reasoning_effort: "none" });
  assert.deepEqual([refused.status, ((await refused.json()) as { error: { param: string } }).error.param], [400, "reasoning_effort"]);
});
