/** Several answers to one request (`n`, several prompts), by OpenAI's own client: each a job, all or none. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ChatOpenAI, OpenAI as LangchainOpenAI } from "@langchain/openai";
import OpenAI from "openai";
import type { FakeAttempt } from "../../../test/support/fake-worker.ts";
import { eventually, type Json } from "./harness.ts";
import { CHAT, startOpenai } from "./openai-harness.ts";

const { orcd, worker, client, post } = await startOpenai(
  { after },
  { queue_jobs_max: 2, v1_choices_max: 4 },
  { slots: 4, features: ["logprobs", "token_prompts"] },
);
await orcd.worker("narrow", { model: "narrow", slots: 1 });

/** So many attempts, by their seeds. */
async function attempts(count: number): Promise<FakeAttempt[]> {
  const come = await Promise.all(Array.from({ length: count }, () => worker.next()));
  return come.sort((a, b) => (a.body.seed ?? 0) - (b.body.seed ?? 0));
}

/** So many attempts, by their prompts and then their seeds. */
async function prompted(count: number): Promise<FakeAttempt[]> {
  const come = await attempts(count);
  return come.sort((a, b) => String(a.body.prompt).localeCompare(String(b.body.prompt)));
}

const idsOf = (response: Response) => (response.headers.get("x-rbees-job-id") ?? "").split(", ");
const statuses = async () => (await orcd.json("/v2/tasks?limit=4")).tasks.map(({ status }: Json) => status);
const settled = (expected: string[]) => eventually(async () => String(await statuses()) === String(expected));

test("whole: each has its own index, seed, job and end; the prompt is counted once", async () => {
  const asking = client.chat.completions.create({ ...CHAT, n: 3, seed: 4_294_967_295 }).withResponse();
  const [one, two, three] = await attempts(3);
  assert.deepEqual(
    [one?.body.seed, two?.body.seed, three?.body.seed],
    [0, 1, 4_294_967_295],
    "the next number after the last is the first",
  );
  for (const [attempt, texts, cached] of [
    [one, ["b", "c"], 2],
    [two, ["d"], 1],
    [three, ["a"], 2],
  ] as const) {
    attempt?.started();
    attempt?.tokens(...texts);
    attempt?.end(attempt === two ? "MAX_TOKENS" : "EOS", { tokens_cached: cached });
  }
  const { data, response } = await asking;
  assert.deepEqual(
    data.choices.map(({ index, message, finish_reason }) => [index, message.content, finish_reason]),
    [
      [0, "a", "stop"],
      [1, "bc", "stop"],
      [2, "d", "length"],
    ],
  );
  assert.deepEqual(data.usage, {
    ...{ prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
    prompt_tokens_details: { cached_tokens: 1 },
  });
  const ids = idsOf(response);
  assert.deepEqual([ids.length, data.id], [3, `chatcmpl-${ids[0]}`]);
  assert.equal((response.headers.get("x-rbees-routing") ?? "").match(/worker=w1/g)?.length, 3);
  for (const [index, id] of ids.entries()) {
    assert.equal((await orcd.json(`/v2/tasks/${id}`)).text, data.choices[index]?.message.content);
    assert.equal((await orcd.get(`/v2/tasks/${id}/explain`)).status, 200);
  }
});

test("a completion: the same, and with probabilities", async () => {
  const asking = client.completions.create({ model: "fake", prompt: "hi", n: 2, seed: 1, logprobs: 0 });
  for (const [at, attempt] of (await attempts(2)).entries()) {
    attempt.started();
    attempt.token(`t${at}`, { logprobs: [{ token: `t${at}`, logprob: -1, top_logprobs: [] }] });
    attempt.end();
  }
  const { choices } = await asking;
  assert.deepEqual(
    choices.map(({ index, text, logprobs }) => [index, text, logprobs?.tokens]),
    [
      [0, "t0", ["t0"]],
      [1, "t1", ["t1"]],
    ],
  );
});

test("several prompts: all answers of the first come first, each with the seeds that it would have alone; each prompt is counted once", async () => {
  const asking = client.completions.create({ model: "fake", prompt: ["A", "B"], n: 2, seed: 7, logprobs: 0 }).withResponse();
  const come = await prompted(4);
  assert.deepEqual(
    come.map(({ body: { prompt, seed, raw } }) => [prompt, seed, raw]),
    [
      ["A", 7, true],
      ["A", 8, true],
      ["B", 7, true],
      ["B", 8, true],
    ],
  );
  // The last is the first to end.
  for (const [at, attempt] of [...come.entries()].reverse()) {
    attempt.started();
    attempt.token(`t${at}`, { logprobs: [{ token: `t${at}`, logprob: -1, top_logprobs: [] }] });
    attempt.end("EOS", { tokens_in: at < 2 ? 10 : 20, tokens_cached: at });
  }
  const { data, response } = await asking;
  assert.deepEqual(
    data.choices.map(({ index, text, logprobs }) => [index, text, logprobs?.tokens, logprobs?.text_offset]),
    [0, 1, 2, 3].map((at) => [at, `t${at}`, [`t${at}`], [0]]),
  );
  assert.deepEqual(data.usage, {
    ...{ prompt_tokens: 30, completion_tokens: 4, total_tokens: 34 },
    prompt_tokens_details: { cached_tokens: 0 + 2 },
  });
  const ids = idsOf(response);
  assert.deepEqual([ids, data.id], [come.map(({ body }) => body.job_id), `cmpl-${ids[0]}`]);
  for (const [index, id] of ids.entries()) assert.equal((await orcd.json(`/v2/tasks/${id}`)).text, `t${index}`);
});

test("several prompts, streamed: beside one another, with one usage and one end", async () => {
  const stream = await client.completions.create({
    ...{ model: "fake", prompt: ["A", "B"], stream: true, max_tokens: 9 },
    stream_options: { include_usage: true },
  });
  const [a, b] = (await prompted(2)) as [FakeAttempt, FakeAttempt];
  for (const attempt of [a, b]) attempt.started();
  b.tokens("x", "y");
  b.end("EOS", { tokens_in: 20 });
  await eventually(async () => (await orcd.json(`/v2/tasks/${b.body.job_id}`)).status === "succeeded");
  a.tokens("a");
  a.end("MAX_TOKENS", { tokens_in: 10 });
  const said: [number, string, string | null][] = [];
  const usages: unknown[] = [];
  for await (const { choices, usage } of stream) {
    for (const { index, text, finish_reason } of choices) said.push([index, text, finish_reason]);
    if (usage) usages.push([choices, usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]);
  }
  const of = (index: number) => said.flatMap(([at, text, reason]) => (at === index ? [text || reason] : []));
  assert.deepEqual(
    [of(0), of(1)],
    [
      ["a", "length"],
      ["x", "y", "stop"],
    ],
  );
  assert.deepEqual(usages, [[[], 30, 3, 33]]);
});

test("several prompts: one that is wrong is named, and none is left", async () => {
  const asking = post("/v1/completions", { model: "fake", prompt: ["A", "B", "C"] });
  const [a, b, c] = (await prompted(3)) as [FakeAttempt, FakeAttempt, FakeAttempt];
  for (const attempt of [a, c]) attempt.started();
  b.fail("CONTEXT_TOO_LARGE", false);
  const refused = await asking;
  const { error } = (await refused.json()) as Json;
  assert.deepEqual([refused.status, error.param], [400, "prompt[1]"]);
  assert.match(error.message, /^prompt\[1\]: /);
  await Promise.all([a.closed, c.closed]);

  // What no worker of the model has room for is refused before anything waits.
  await orcd.worker("small", { model: "small", slots: 2, context_size: 32 });
  const before = (await orcd.json("/v2/tasks?limit=200")).tasks.length;
  const early = await post("/v1/completions", { model: "small", prompt: ["short", "long ".repeat(2000)] });
  const said = ((await early.json()) as Json).error;
  assert.deepEqual([early.status, said.code, said.param], [400, "CONTEXT_TOO_LARGE", "prompt[1]"]);
  const tasks = (await orcd.json("/v2/tasks?limit=200")).tasks;
  assert.deepEqual([tasks.length, tasks[0].status], [before + 1, "cancelled"]);
});

test("prompts of tokens go to the worker as they are, alone and beside one another", async () => {
  for (const [prompt, expected] of [
    [[5, 6, 7], [[5, 6, 7]]],
    [
      [[8, 9], [5]],
      [[5], [8, 9]],
    ],
  ] as const) {
    const asking = client.completions.create({ model: "fake", prompt: prompt as never, seed: 1 });
    const come = await attempts(expected.length);
    assert.deepEqual(
      come.map(({ body }) => body.token_prompt).sort((a = [], b = []) => a.length - b.length),
      expected,
    );
    for (const attempt of come) {
      assert.deepEqual([attempt.body.prompt, attempt.body.raw], [undefined, true]);
      attempt.started();
      attempt.tokens(String(attempt.body.token_prompt));
      attempt.end();
    }
    const { choices } = await asking;
    assert.deepEqual(
      choices.map(({ text }) => text),
      (typeof prompt[0] === "number" ? [prompt] : prompt).map(String),
    );
  }
});

test("prompts of tokens: what the worker refuses is told with the prompt's name, and where no worker takes them, that", async () => {
  const asking = post("/v1/completions", { model: "fake", prompt: [[1], [99_999]] });
  const [one, other] = await attempts(2);
  const [good, bad] = one?.body.token_prompt?.[0] === 1 ? [one, other] : [other, one];
  good?.started();
  bad?.fail("INVALID_REQUEST", false, "prompt: token 99999 is not in the model's vocabulary of 32000");
  const refused = await asking;
  const { error } = (await refused.json()) as Json;
  assert.deepEqual(
    [refused.status, error.param, error.message],
    [400, "prompt[1]", "prompt[1]: token 99999 is not in the model's vocabulary of 32000"],
  );
  await good?.closed;

  const nowhere = await post("/v1/completions", { model: "narrow", prompt: [1, 2] });
  const said = ((await nowhere.json()) as Json).error;
  assert.deepEqual([nowhere.status, said.param], [400, "prompt"]);
  assert.match(said.message, /^prompt \(token_prompts\): the engine of no worker that serves narrow/);

  const many = Array.from({ length: 65 }, (_, i) => i);
  await orcd.worker("w9", { model: "short", context_size: 64, features: ["token_prompts"] });
  const long = ((await (await post("/v1/completions", { model: "short", prompt: many, max_tokens: 1 })).json()) as Json).error;
  assert.equal(long.code, "CONTEXT_TOO_LARGE", "that is certain without a worker");
});

test("several prompts: no more than there may be, none empty", async () => {
  const cases: [object, RegExp][] = [
    [{ prompt: ["a", "b", "c", "d", "e"] }, /prompt: there are 5; a request may ask for 4 here at most \(v1_choices_max\)/],
    [{ prompt: ["a", "b"], n: 3 }, /prompt: there are 2, and n of 3 makes that 6 answers; a request may ask for 4/],
    [{ prompt: [] }, /prompt: must be a text that is not empty, numbers of tokens, or an array of either/],
    [{ prompt: "" }, /prompt: must not be empty/],
    [{ prompt: ["a", ""] }, /must not be empty/],
    [{ prompt: ["a", 1] }, /must be a text/],
    [{ prompt: ["a", [1]] }, /must be a text/],
    [{ prompt: [1.5] }, /prompt/],
    [{ prompt: [-1] }, /prompt/],
    [{ prompt: [[1], []] }, /prompt/],
    [{ prompt: Array.from({ length: 129 }, () => "a") }, /at most 128/],
  ];
  for (const [asked, why] of cases) {
    const refused = await post("/v1/completions", { model: "fake", ...asked });
    const { error } = (await refused.json()) as Json;
    assert.equal(refused.status, 400);
    assert.match(error.param, /^prompt/);
    assert.match(error.message, why);
  }
});

test("streamed: beside one another, each in its own order, with one usage and one end", async () => {
  const asking = post("/v1/chat/completions", { ...CHAT, n: 2, seed: 1, stream: true, stream_options: { include_usage: true } });
  const [one, two] = (await attempts(2)) as [FakeAttempt, FakeAttempt];
  for (const attempt of [one, two]) attempt.started();
  one.tokens("a");
  two.tokens("x", "y");
  two.end();
  const response = await asking;
  await eventually(async () => (await orcd.json(`/v2/tasks/${idsOf(response)[1]}`)).status === "succeeded");
  one.tokens("b");
  one.end("MAX_TOKENS");
  const chunks = (await response.text()).split("\n\n").slice(0, -1);
  assert.deepEqual(chunks.filter((chunk) => chunk === "data: [DONE]").length, 1);
  assert.equal(chunks.at(-1), "data: [DONE]");
  const said: Json[] = chunks.slice(0, -1).map((chunk) => JSON.parse(chunk.slice(6)));
  const of = (index: number) =>
    said
      .flatMap(({ choices }) => choices.filter((choice: Json) => choice.index === index))
      .map(({ delta, finish_reason }) => delta.content ?? finish_reason);
  assert.deepEqual(
    [of(0), of(1)],
    [
      ["", "a", "b", "length"],
      ["", "x", "y", "stop"],
    ],
  );
  assert.equal(new Set(said.map(({ id }) => id)).size, 1);
  const usages = said.filter(({ usage }) => usage !== null);
  assert.deepEqual(
    usages.map(({ choices, usage }) => [choices, usage.prompt_tokens, usage.completion_tokens]),
    [[[], 3, 4]],
  );
  assert.equal(said.at(-1), usages[0]);

  const streaming = client.chat.completions.stream({ ...CHAT, n: 2, seed: 1 });
  for (const [at, attempt] of (await attempts(2)).entries()) {
    attempt.started();
    attempt.tokens("n", String(at));
    attempt.end();
  }
  assert.deepEqual(
    (await streaming.finalChatCompletion()).choices.map(({ message }) => message.content),
    ["n0", "n1"],
  );
});

test("streamed: an answer that takes long goes on after the events of one that had ended before are forgotten", async (t) => {
  const brief = await startOpenai(t, { replay_after_end_ms: 0 }, { slots: 2 });
  const asking = brief.post("/v1/chat/completions", { ...CHAT, n: 2, stream: true });
  const [short, long] = [await brief.worker.next(), await brief.worker.next()];
  for (const attempt of [short, long]) attempt.started();
  short.tokens("short");
  short.end();
  long.tokens("lo");
  const response = await asking;
  await eventually(async () => (await brief.orcd.get(`/v2/tasks/${short.body.job_id}/events`)).status === 410);
  long.tokens("ng");
  long.end();
  const text = await response.text();
  assert.equal(text.match(/"finish_reason":"stop"/g)?.length, 2, text);
  assert.ok(text.endsWith("data: [DONE]\n\n"), text);
});

test("all or none: when the queue has no room for one of them, none is left", async () => {
  const before = (await orcd.json("/v2/tasks?limit=200")).tasks.length;
  await assert.rejects(client.chat.completions.create({ ...CHAT, model: "narrow", n: 4 }), OpenAI.RateLimitError);
  assert.deepEqual((await statuses()).slice(0, 3), ["cancelled", "cancelled", "cancelled"]);
  assert.equal((await orcd.json("/v2/tasks?limit=200")).tasks.length, before + 3);
  assert.equal((await orcd.json("/health")).queue_depth, 0);
});

test("a client that leaves before there is anything to read ends all of them", async () => {
  const leave = new AbortController();
  const asking = client.chat.completions.create({ ...CHAT, n: 4, stream: true }, { signal: leave.signal });
  const all = await attempts(4);
  leave.abort();
  await assert.rejects(asking, OpenAI.APIUserAbortError);
  await Promise.all(all.map(({ closed }) => closed));
  await settled(["cancelled", "cancelled", "cancelled", "cancelled"]);
});

for (const stream of [false, true]) {
  test(`a client that leaves ends all of them; stream: ${stream}`, async () => {
    const leave = new AbortController();
    const asking = client.chat.completions.create({ ...CHAT, n: 4, stream }, { signal: leave.signal });
    const all = await attempts(4);
    for (const attempt of all) attempt.started();
    for (const attempt of all) attempt.tokens("one");
    if (stream) await asking;
    leave.abort();
    if (!stream) await assert.rejects(asking, OpenAI.APIUserAbortError);
    await Promise.all(all.map(({ closed }) => closed));
    await settled(["cancelled", "cancelled", "cancelled", "cancelled"]);
  });

  test(`one that fails ends the others, and the client is told; stream: ${stream}`, async () => {
    const asking = post("/v1/chat/completions", { ...CHAT, n: 3, seed: 1, stream });
    const [one, two, three] = (await attempts(3)) as [FakeAttempt, FakeAttempt, FakeAttempt];
    for (const attempt of [one, two, three]) attempt.started();
    one.tokens("a");
    three.tokens("c");
    three.end();
    two.tokens("b");
    await eventually(async () => String((await statuses()).slice(0, 3)) === "succeeded,running,running");
    const response = stream ? await asking : undefined;
    two.fail("INSUFFICIENT_MEMORY", false);
    const text = await (response ?? (await asking)).text();
    assert.match(text, /INSUFFICIENT_MEMORY/);
    assert.doesNotMatch(text, /DONE|CANCELLED/);
    if (stream) assert.equal(JSON.parse(text.trimEnd().split("\n\n").at(-1)?.slice(6) ?? "").error.code, "INSUFFICIENT_MEMORY");
    else assert.equal((await asking).status, 507);
    await one.closed;
    await eventually(async () => String((await statuses()).slice(0, 3)) === "succeeded,failed,cancelled");
  });
}

test("one that fails ends the others, also where a client that leaves would not", async () => {
  const headers = { "content-type": "application/json", "x-rbees-on-disconnect": "continue" };
  const body = JSON.stringify({ ...CHAT, n: 2, seed: 1, stream: true });
  const asking = fetch(`${orcd.url}/v1/chat/completions`, { method: "POST", headers, body });
  const [one, two] = (await attempts(2)) as [FakeAttempt, FakeAttempt];
  for (const attempt of [one, two]) {
    attempt.started();
    attempt.tokens("a");
  }
  const response = await asking;
  two.fail("INSUFFICIENT_MEMORY", false);
  assert.match(await response.text(), /INSUFFICIENT_MEMORY/);
  await one.closed;
  await eventually(async () => String((await statuses()).slice(0, 2).sort()) === "cancelled,failed");
});

test("what fails before anything was said is told with its status, in a stream too", async () => {
  const asking = post("/v1/chat/completions", { ...CHAT, n: 2, stream: true });
  const [one, two] = (await attempts(2)) as [FakeAttempt, FakeAttempt];
  one.started();
  two.fail("CONTEXT_TOO_LARGE", false);
  assert.equal((await asking).status, 400);
  await one.closed;
});

test("more than there may be, and best_of, are refused by name", async () => {
  const cases: [object, string, RegExp][] = [
    [{ n: 5 }, "n", /n: may be 4 here at most \(v1_choices_max\)/],
    [{ n: 0 }, "n", /1/],
    [{ n: 129 }, "n", /128/],
    [{ n: 1.5 }, "n", /int/],
    [{ best_of: 2 }, "best_of", /best_of: is not supported.*`n` gives all/],
  ];
  for (const [more, field, why] of cases) {
    const refused = await post("/v1/completions", { model: "fake", prompt: "hi", ...more });
    const { error } = (await refused.json()) as Json;
    assert.deepEqual([refused.status, error.param], [400, field]);
    assert.match(error.message, why);
  }
});

/** What the only line of a batch is answered, when its attempts have been. */
async function answeredLine(url: "/v1/chat/completions" | "/v1/completions", body: object, answer: () => Promise<void>): Promise<Json> {
  const line = { custom_id: "a", method: "POST", url, body };
  const file = await client.files.create({ file: new File([JSON.stringify(line)], "in.jsonl"), purpose: "batch" });
  const batch = await client.batches.create({ input_file_id: file.id, endpoint: url, completion_window: "24h" });
  await answer();
  const done = await eventually(async () => {
    const seen = await client.batches.retrieve(batch.id);
    return seen.status === "completed" && seen;
  });
  return (JSON.parse(await (await client.files.content(done.output_file_id ?? "")).text()) as Json).response;
}

test("a line of a batch may ask for several", async () => {
  const response = await answeredLine("/v1/chat/completions", { ...CHAT, n: 2, seed: 1 }, async () => {
    for (const [at, attempt] of (await attempts(2)).entries()) {
      attempt.started();
      attempt.tokens(`n${at}`);
      attempt.end();
    }
  });
  assert.deepEqual(
    response.body.choices.map(({ index, message }: Json) => [index, message.content]),
    [
      [0, "n0"],
      [1, "n1"],
    ],
  );
});

test("a line of a batch may have several prompts", async () => {
  const response = await answeredLine("/v1/completions", { model: "fake", prompt: ["A", "B"] }, async () => {
    for (const attempt of await prompted(2)) {
      attempt.started();
      attempt.tokens(`${attempt.body.prompt}!`);
      attempt.end();
    }
  });
  assert.deepEqual(
    response.body.choices.map(({ index, text }: Json) => [index, text]),
    [
      [0, "A!"],
      [1, "B!"],
    ],
  );
  assert.equal(response.body.usage.prompt_tokens, 6);
});

test("LangChain asks for several generations", async () => {
  const chat = new ChatOpenAI({ model: "fake", apiKey: "none", maxRetries: 0, n: 2, configuration: { baseURL: `${orcd.url}/v1` } });
  const generating = chat.generate([[["user", "hi"]]] as never);
  for (const attempt of await attempts(2)) {
    attempt.started();
    attempt.tokens("yes");
    attempt.end();
  }
  assert.deepEqual(
    (await generating).generations[0]?.map(({ text }) => text),
    ["yes", "yes"],
  );
});

test("LangChain's model of texts asks with several prompts at once", async () => {
  const llm = new LangchainOpenAI({ model: "fake", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${orcd.url}/v1` } });
  const generating = llm.generate(["A", "B"]);
  for (const attempt of await prompted(2)) {
    attempt.started();
    attempt.tokens(`${attempt.body.prompt}!`);
    attempt.end();
  }
  assert.deepEqual(
    (await generating).generations.map(([first]) => first?.text),
    ["A!", "B!"],
  );
});
