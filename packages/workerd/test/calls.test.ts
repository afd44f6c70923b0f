/** Calls of functions through the real engine: models that call in their family's way, taken apart, and continued by another attempt. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type TokenEvent, WorkerEvent } from "@rbees/contracts/events";
import { CALL, CALLING, WEATHER_TOOL } from "../../../models/fixtures/calling.ts";
import type { Workerd } from "../src/workerd.ts";
import { LIBRARIES } from "./engine-options.ts";
import { ask, type Body, post, scripted, startWorker } from "./support.ts";

const user = { role: "user", content: "Do I need an umbrella?" };
const asked = { messages: [user], tools: [WEATHER_TOOL], max_tokens: 100, temperature: 0 };

/** What an answer says, put together. */
function said(tokens: readonly TokenEvent[]) {
  let text = "";
  let reasoning = "";
  const calls: { id: string; name: string; arguments: string }[] = [];
  for (const token of tokens) {
    text += token.t;
    reasoning += token.reasoning ?? "";
    for (const { index, id, name, arguments: more } of token.tool_calls ?? []) {
      if (id !== undefined && name !== undefined) calls[index] = { id, name, arguments: "" };
      const call = calls[index] ?? assert.fail("arguments of no call");
      call.arguments += more;
    }
  }
  return { text, reasoning, calls };
}

const start = (kind: keyof typeof CALLING, flags: Record<string, string> = {}): Promise<Workerd> =>
  startWorker({ model: scripted(`calling-${kind}`, CALLING[kind]), ctx: 2048, ...flags });

test("tools that do not fit the context are told as what is too much", async () => {
  const worker = await start("hermes", { ctx: "256" });
  const described = { ...WEATHER_TOOL, function: { ...WEATHER_TOOL.function, description: "rain ".repeat(200) } };
  const refusal = async (more: object) => {
    const response = await post(worker, "/execute", { job_id: "j", ...asked, tools: [described], fit_context: true, ...more });
    return ((await response.json()) as { error: { code: string; message: string } }).error;
  };
  const { code, message } = await refusal({});
  assert.equal(code, "CONTEXT_TOO_LARGE");
  assert.match(message, /tokens with the descriptions of its tools \(1\), but a slot of this worker holds 256.*Offer fewer tools/);
  const unseen = await refusal({ tool_choice: "none", messages: [{ role: "user", content: "rain ".repeat(200) }] });
  assert.match(unseen.message, /tokens, but a slot of this worker holds 256.*\. Shorten the prompt\.$/);
});

describe("a call, its result, an answer", () => {
  const before = { hermes: "Let me look.", mistral: "Let me look", llama: "", plain: "" } as const;
  for (const kind of ["hermes", "mistral", "llama", "plain"] as const) {
    for (const engine of kind === "mistral" ? LIBRARIES : (["auto"] as const)) {
      test(`${kind}, ${engine}`, async () => {
        const worker = await start(kind, { engine });
        const first = await ask(worker, { job_id: "j1", ...asked });
        for (const event of first.events) WorkerEvent.parse(event);
        const { text, calls } = said(first.tokens);
        const [call] = calls;
        assert.deepEqual([text, call?.name, call?.arguments, calls.length], [before[kind], CALL.name, CALL.arguments, 1]);
        assert.match(call?.id ?? "", /^[a-z0-9]{9}$/);
        assert.ok(first.tokens.filter(({ tool_calls }) => tool_calls !== undefined).length >= 4, "arguments come in pieces");
        assert.equal(first.end?.stop_reason, "EOS");
        assert.equal(first.ids.length, first.end?.tokens_out, "every token of the answer is told, marks too");
        const { id, name, arguments: args } = call ?? assert.fail();
        const messages = [
          user,
          { role: "assistant", content: text, tool_calls: [{ id, type: "function", function: { name, arguments: args } }] },
          { role: "tool", content: "rain", tool_call_id: id },
        ];
        const second = await ask(worker, { job_id: "j2", ...asked, messages });
        assert.deepEqual(said(second.tokens), { text: CALL.answer, reasoning: "", calls: [] });
      });
    }
  }
});

test("an answer that another attempt continues after any of its tokens says the same", async () => {
  for (const kind of ["hermes", "mistral", "thinking"] as const) {
    const worker = await start(kind);
    const body: Body = { job_id: "j1", ...asked, separate_reasoning: true };
    const whole = await ask(worker, body);
    assert.equal(said(whole.tokens).calls.length, 1);
    for (let sent = 1; sent <= whole.tokens.length; sent += 1) {
      const before = whole.tokens.slice(0, sent);
      const rest = await ask(worker, { ...body, attempt: 2, continue_from: { tokens: before.flatMap(({ ids }) => ids) } });
      assert.deepEqual(said([...before, ...rest.tokens]), said(whole.tokens), `${kind}, after ${sent}`);
    }
  }
});

test("thinking that the prompt opens is told apart on request, else it is text; marks that are special tokens are found", async () => {
  const worker = await start("thinking");
  const apart = await ask(worker, { job_id: "j1", ...asked, separate_reasoning: true });
  assert.deepEqual([said(apart.tokens).text, said(apart.tokens).reasoning], ["Let me look", "Rain? Ask."]);
  const within = await ask(worker, { job_id: "j1", ...asked });
  assert.deepEqual([said(within.tokens).text, said(within.tokens).reasoning], ["Rain? Ask.\n</think>\n\nLet me look", ""]);
  const without_tools = await ask(worker, { job_id: "j1", ...asked, tools: undefined, separate_reasoning: true });
  assert.equal(said(without_tools.tokens).reasoning, "Rain? Ask.");
  assert.match(said(without_tools.tokens).text, /^Let me look<tool_call>/);
});

test("without tools, or with tool_choice none, the answer is text, all of it, in the shape that the relay passes on unseen", async () => {
  const worker = await start("hermes");
  for (const more of [{ tools: undefined }, { tool_choice: "none" }]) {
    const response = await post(worker, "/execute", { job_id: "j1", ...asked, ...more });
    const events = (await response.text()).split("\n\n").filter((event) => event.startsWith("event: token"));
    assert.ok(events.length > 10 && events.every((event) => event.startsWith('event: token\ndata: {"type":"token","t":"')));
    assert.ok(events.some((event) => event.includes("<tool_call>")));
  }
});

test("parallel_tool_calls false ends the answer with its call, max_tokens cuts it, a stop string is found in it", async () => {
  const worker = await start("hermes");
  const one = await ask(worker, { job_id: "j1", ...asked, parallel_tool_calls: false });
  assert.deepEqual([said(one.tokens).calls[0]?.arguments, one.end?.stop_reason], [CALL.arguments, "EOS"]);
  assert.ok((one.end?.tokens_out ?? 99) < ((await ask(worker, { job_id: "j1", ...asked })).end?.tokens_out ?? 0));
  const cut = await ask(worker, { job_id: "j1", ...asked, max_tokens: 11 });
  assert.deepEqual([said(cut.tokens).calls[0]?.arguments, cut.end?.stop_reason], ['{"city": "Ge', "MAX_TOKENS"]);
  const early = await ask(worker, { job_id: "j1", ...asked, max_tokens: 6 });
  assert.deepEqual(said(early.tokens), { text: 'Let me look.\n<tool_call>\n{"name"', reasoning: "", calls: [] });
  const stopped = await ask(worker, { job_id: "j1", ...asked, stop: ["days"] });
  assert.deepEqual([said(stopped.tokens).calls[0]?.arguments, stopped.end?.stop_reason], ['{"city": "Gent", "', "STOP_SEQUENCE"]);
});

test("tool_choice required, or a name: the answer is one call, whatever the model would say, and its arguments validate", async () => {
  const door = (name: string) => ({
    type: "function",
    function: {
      name,
      parameters: {
        properties: { which: { enum: ["front", "back"] }, times: { type: "integer", minimum: 1, maximum: 3 } },
        required: ["which", "times"],
      },
    },
  });
  for (const [kind, engine] of [
    ["hermes", "libllama"],
    ["thinking", "libllama"],
    ["mistral", "libllama"],
    ["mistral", "node-llama-cpp"],
  ] as const) {
    const worker = await start(kind, { engine });
    for (const tool_choice of ["required", { name: "shut_door" }]) {
      const { tokens, end } = await ask(worker, {
        job_id: "j1",
        ...asked,
        tools: [door("open_door"), door("shut_door")],
        max_tokens: 800,
        tool_choice,
        separate_reasoning: true,
      });
      const { text, reasoning, calls } = said(tokens);
      assert.deepEqual([text, reasoning, calls.length, end?.stop_reason], ["", "", 1, "EOS"], kind);
      const { name, arguments: args } = calls[0] ?? assert.fail();
      assert.ok(typeof tool_choice === "string" || name === tool_choice.name, name);
      const { which, times } = JSON.parse(args);
      assert.ok(["front", "back"].includes(which) && [1, 2, 3].includes(times), args);
    }
  }
});

test("tools on a model without a chat template are refused, with what to do", async () => {
  const worker = await startWorker({ model: scripted("bare", { template: null, edges: CALLING.plain.edges }), ctx: 256 });
  const response = await post(worker, "/execute", { job_id: "j1", prompt: "hi", tools: [WEATHER_TOOL], max_tokens: 5 });
  assert.equal(response.status, 400);
  assert.match(await response.text(), /tools: this model has no chat template/);
});
