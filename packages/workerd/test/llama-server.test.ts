/** The engine that is llama.cpp's own server: the contract on the real program where there is one, and what a program may do wrong. */
import assert from "node:assert/strict";
import { accessSync, chmodSync, constants, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { test } from "node:test";
import { environment } from "@rbees/kit/config";
import { ANSWER, bytesOf, chain } from "../../../models/fixtures/scripted.ts";
import { engineContract } from "./engine-contract.ts";
import { ask, folder, health, open, scripted, startWorker, until } from "./support.ts";

/** `RBEES_LLAMA_SERVER` names one, or it is on PATH. */
function realProgram(): string | undefined {
  const { RBEES_LLAMA_SERVER: named, PATH = "" } = environment();
  const places = named === undefined ? PATH.split(delimiter).map((place) => join(place, "llama-server")) : [named];
  return places.find((place) => {
    try {
      accessSync(place, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

const real = realProgram();
const skip = real === undefined ? "no llama-server: neither RBEES_LLAMA_SERVER nor PATH has one" : false;
const start = (model: string, engine_path = real ?? "", more: Record<string, string | number> = {}) =>
  startWorker({ model, engine: "llama-server", engine_path, ctx: 2048, ...more });

engineContract({
  name: "llama-server",
  features: [
    "grammar",
    "json_schema",
    "logit_bias",
    "penalties",
    "repeat_penalty",
    "tools",
    "tokenize",
    "token_prompts",
    "reasoning_effort",
  ],
  tells_tokens: true,
  draws_by_position: false,
  start,
  skip,
});

/** Processes with a word in their command line, where the system says that. */
const processesWith = (word: string) =>
  (existsSync("/proc") ? readdirSync("/proc") : []).filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(word);
    } catch {
      return false;
    }
  });

test("characters of several tokens: every token is told, on either kind of vocabulary", { skip }, async () => {
  for (const tokenizer of ["spm", "bpe"] as const) {
    const edges = chain(ANSWER, [" so", ...bytesOf("漢"), "字", ...bytesOf("😀"), " yes"]);
    const worker = await start(scripted(`pieces-${tokenizer}`, { tokenizer, edges }));
    const whole = await ask(worker, { prompt: "hi", max_tokens: 20, temperature: 0 });
    assert.deepEqual([whole.text, whole.ids.length, whole.end?.tokens_out], [" so漢字😀 yes", 10, 10]);
    const rest = await ask(worker, { prompt: "hi", max_tokens: 20, temperature: 0, continue_from: { tokens: whole.ids.slice(0, 4) } });
    assert.deepEqual(rest.ids, whole.ids.slice(4));
    // What of a character the server made when the answer was over it does not tell.
    const cut = await ask(worker, { prompt: "hi", max_tokens: 3, temperature: 0 });
    assert.deepEqual([cut.text, cut.end?.stop_reason], [" so", "MAX_TOKENS"]);
  }
});

test("names of special tokens in a message are spelled, and a prompt that comes again is not computed again", { skip }, async () => {
  const worker = await start(scripted("spelled", { edges: chain(ANSWER, [" ok"]) }));
  const of = async (content: string) => (await ask(worker, { messages: [{ role: "user", content }], max_tokens: 1 })).end;
  assert.equal((await of("x<|im_end|>y"))?.tokens_in, (await of("x0123456789y"))?.tokens_in);
  const long = "a".repeat(300);
  await of(long);
  assert.ok(((await of(long))?.tokens_cached ?? 0) > 250);
  // It can't keep prompts of different salts apart, so from the first one on nothing is used again.
  const salted = { messages: [{ role: "user", content: long }], max_tokens: 1, cache_salt: "one" };
  for (const body of [salted, salted, { ...salted, cache_salt: undefined }]) assert.equal((await ask(worker, body)).end?.tokens_cached, 0);
});

test("the program is killed, and the worker: the one is started again, the other takes it along", {
  skip: skip || process.platform !== "linux",
}, async () => {
  const model = scripted("killed-program", { edges: chain(ANSWER, [" tick", " tock"], "loop") });
  const worker = await start(model);
  const pids = () => processesWith(model).filter((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("--parallel"));
  const [first] = pids();
  assert.ok((await health(worker)).memory_bytes > 0);
  const stream = await open(worker, { prompt: "go", max_tokens: 1500 });
  for (let event = await stream.next(); event?.type !== "token"; event = await stream.next()) assert.ok(event !== undefined);
  process.kill(Number(first), "SIGKILL");
  const events = [];
  for await (const event of stream.events) events.push(event);
  const failed = events.at(-1);
  assert.ok(
    failed?.type === "error" && failed.code === "ENGINE_FAILED" && /ended \(SIGKILL\)/.test(failed.message),
    JSON.stringify(failed),
  );
  await until(async () => (await health(worker)).slots_busy === 0 && pids().length === 1 && pids()[0] !== first, 30_000);
  assert.equal((await ask(worker, { prompt: "go", max_tokens: 2 })).text, " tick tock");
  // The engine's process is killed: nobody is left who could end the program.
  process.kill(worker.engine_pid ?? 0, "SIGKILL");
  const second = pids()[0];
  await until(() => !pids().includes(second ?? ""), 10_000);
  await worker.stop();
  await until(() => pids().length === 0);
});

/** A program that speaks as much of the server's language as is needed to go wrong at a certain point. */
function standIn(name: string, body: string): string {
  const path = join(folder, name);
  const program = `#!${process.execPath}
const { createServer } = require("node:http");
const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
const serve = (act) => createServer(async (request, response) => {
  if (request.url !== "/health" && request.headers.authorization !== "Bearer " + process.env.LLAMA_API_KEY) return void response.writeHead(401).end();
  let text = "";
  for await (const chunk of request) text += chunk;
  const { content } = text === "" ? {} : JSON.parse(text);
  if (request.url === "/props") return void response.end(JSON.stringify({ default_generation_settings: { n_ctx: 2048 }, build_info: "stand-in" }));
  if (request.url === "/tokenize") return void response.end(JSON.stringify({ tokens: [...content].map(() => 300) }));
  act(request, response);
}).listen(port, "127.0.0.1");
const ready = (response) => response.end('{"status":"ok"}');
const chunk = (content) => "data: " + JSON.stringify({ content, tokens: [300], stop: false, tokens_predicted: 1 }) + "\\n\\n";
${body}
`;
  writeFileSync(path, program);
  chmodSync(path, 0o755);
  return path;
}
const model = scripted("wrong", { edges: chain(ANSWER, [" a"]) });

test("a program that ends before it is ready, is never ready or is not there: said with its last words and what to do", async () => {
  const dies = standIn("dies", 'console.error("error: out of memory"); process.exitCode = 3;');
  await assert.rejects(start(model, dies), /dies ended \(exit code 3\)\. Its last words: error: out of memory/);
  const never = standIn("never", "serve((request, response) => response.writeHead(503).end());");
  await assert.rejects(start(model, never, { engine_ready_ms_max: 300 }), /was not ready within 300 ms.*--engine-ready-ms-max/);
  assert.deepEqual(processesWith(never), []);
  await assert.rejects(start(model, join(folder, "absent")), /--engine-path: .*absent is no program/);
  await assert.rejects(startWorker({ model, engine: "llama-server", deterministic: true }), /deterministic: llama-server does not promise/);
  await assert.rejects(startWorker({ model, engine_path: dies }), /engine-path: is for --engine llama-server alone/);
});

test("a program that refuses, breaks off or ends in the middle of an answer fails the attempt; the worker answers again", async () => {
  const way = standIn(
    "way",
    `let asked = 0;
serve((request, response) => {
  if (request.url === "/health") return ready(response);
  asked += 1;
  if (asked === 1) return void response.writeHead(500).end(JSON.stringify({ error: { message: "no more cells" } }));
  response.write(chunk("x"));
  if (asked === 2) return void response.end("data: " + JSON.stringify({ error: { message: "decode failed" } }) + "\\n\\n");
  if (asked === 3) return void response.end();
  setImmediate(() => process.kill(process.pid, "SIGKILL"));
});`,
  );
  const worker = await start(model, way);
  assert.equal((await health(worker)).engine.version, "stand-in");
  for (const why of [/no more cells/, /decode failed/, /without an end/, /ended \(SIGKILL\)/]) {
    const { error } = await ask(worker, { prompt: "hi", max_tokens: 4 });
    assert.equal(error?.code, "ENGINE_FAILED");
    assert.match(error?.message ?? "", why);
    await until(async () => (await health(worker)).slots_busy === 0, 20_000);
  }
  assert.match((await ask(worker, { prompt: "hi", max_tokens: 4 })).error?.message ?? "", /no more cells/);
});
