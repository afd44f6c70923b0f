/** Requests for the doors of the orchestrator that are nearly good: a sound one for some route, and then harm done to it. Seeded. */
import { gzipSync } from "node:zlib";
import { orcdRoutes } from "@rbees/contracts/routes";
import type { Random } from "../../../../test/support/random.ts";

export interface FuzzRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: Buffer | undefined;
  /** Sent as they are in place of all that: bytes that need not be HTTP. */
  readonly raw?: Buffer;
}

/** JSON that no value stands for: a number too large, a key twice. */
class Text {
  readonly json: string;
  constructor(json: string) {
    this.json = json;
  }
}

const message = { role: "user", content: "hi" };
const chat = { model: "fake", messages: [message] };
const look = { name: "look", description: "d", parameters: { type: "object", properties: { a: { type: "string" } } } };
const TOOL = { type: "function", function: look };
const CALL = { id: "c1", type: "function", function: { name: "look", arguments: '{"a":1}' } };
/** A conversation in which a function was called. */
const CALLED = [
  message,
  { role: "assistant", content: null, reasoning_content: "r", tool_calls: [CALL] },
  { role: "tool", content: "rain", tool_call_id: "c1" },
];
/** With a part of every kind, so that each is harmed. */
const SCHEMA = {
  type: "object",
  properties: {
    a: { type: "string", minLength: 1, maxLength: 9 },
    b: { type: "array", items: { $ref: "#/$defs/c" }, minItems: 1, maxItems: 3 },
    d: { anyOf: [{ type: ["integer", "null"], minimum: -5, exclusiveMaximum: 99 }, { enum: ["x", 1, null] }] },
    e: { type: "string", pattern: "^[a-c]{1,3}(x|y)?$" },
    f: { type: "string", format: "date-time" },
  },
  required: ["a"],
  additionalProperties: false,
  $defs: { c: { type: "object", properties: { again: { $ref: "#/$defs/c" } } } },
};
const BODIES: Readonly<Record<string, readonly object[]>> = {
  submitJob: [
    { model: "fake", prompt: "hi", max_tokens: 5, temperature: 0.5, stop: ["END"], metadata: { a: "b" } },
    { model: "fake", prompt: "hi", json_schema: SCHEMA },
    { model: "fake", prompt: "hi", logprobs: 2 },
    { model: "fake", prompt: "hi", grammar: 'root ::= [a-z]{1,9} ("," root)? | "\\u00e4"' },
    { model: "fake", prompt: "hi", max_tokens: 5, temperature: 0.5, stop: ["END"], metadata: { subject: "s" } },
    { ...chat, stream: true, priority: "batch", placement: { prefer: ["w1"], avoid: ["w9"] }, seed: 7, raw: false },
    { model: "fake", messages: CALLED, tools: [TOOL], tool_choice: "none", separate_reasoning: true, max_tokens: 5 },
  ],
  openaiChat: [
    { ...chat, temperature: 1, max_tokens: 5, stop: "END", user: "u", metadata: { a: "b" }, n: 1, tools: [], logit_bias: {} },
    { ...chat, messages: CALLED, tools: [TOOL], tool_choice: "auto", parallel_tool_calls: false, max_tokens: 5 },
    { ...chat, reasoning_effort: "low", chat_template_kwargs: { enable_thinking: false }, max_tokens: 5 },
    { ...chat, stream: true, stream_options: { include_usage: true }, logprobs: true, top_logprobs: 2 },
    { model: "fake", messages: [{ role: "system", content: [{ type: "text", text: "t" }] }, message], response_format: { type: "text" } },
    { ...chat, response_format: { type: "json_schema", json_schema: { name: "n", strict: true, schema: SCHEMA } } },
  ],
  openaiCompletion: [
    { model: "fake", prompt: "hi", max_tokens: 5, seed: -1, top_p: 0.9, n: 2 },
    { model: "fake", prompt: ["hi"], stream: true, logprobs: 1 },
  ],
  openaiEmbeddings: [
    { model: "fake", input: ["a", "b"], encoding_format: "base64", dimensions: 2, user: "u" },
    { model: "fake", input: [[1, 2], [3]] },
  ],
  createFile: [{ purpose: "batch", file: "x" }],
  createBatch: [{ input_file_id: "file-x", endpoint: "/v1/embeddings", completion_window: "24h", metadata: { a: "b" } }],
  openaiResponse: [
    {
      model: "fake",
      input: "hi",
      instructions: "i",
      text: { format: { type: "json_schema", name: "n", schema: SCHEMA } },
      store: false,
      include: [],
    },
    { model: "fake", input: [{ role: "user", content: [{ type: "input_text", text: "t" }] }], stream: true, metadata: { a: "b" } },
    {
      model: "fake",
      input: [
        message,
        { type: "reasoning", summary: [], content: [{ type: "reasoning_text", text: "r" }] },
        { type: "function_call", call_id: "c1", name: "look", arguments: "{}" },
        { type: "function_call_output", call_id: "c1", output: "rain" },
      ],
      tools: [{ type: "function", strict: false, ...look }],
      tool_choice: "auto",
    },
  ],
  anthropicMessages: [
    { ...chat, max_tokens: 5, system: [{ type: "text", text: "t", cache_control: { type: "ephemeral" } }], stop_sequences: ["END"] },
    { ...chat, max_tokens: 5, stream: true, metadata: { user_id: "u" }, tool_choice: { type: "none" } },
    { ...chat, max_tokens: 5, output_config: { format: { type: "json_schema", schema: SCHEMA }, effort: "low" } },
    {
      model: "fake",
      max_tokens: 5,
      messages: [
        message,
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "r", signature: "" },
            { type: "tool_use", id: "c1", name: "look", input: { a: 1 } },
          ],
        },
        { role: "user", content: [{ type: "tool_result", tool_use_id: "c1", content: [{ type: "text", text: "rain" }] }] },
      ],
      tools: [{ name: "look", description: "d", input_schema: look.parameters }],
      tool_choice: { type: "auto", disable_parallel_tool_use: true },
    },
  ],
  anthropicCountTokens: [{ ...chat, system: "s", tools: [{ name: "look", input_schema: look.parameters }], tool_choice: { type: "none" } }],
  tokenize: [
    { model: "fake", prompt: "hi", raw: true, with_tokens: true },
    { ...chat, tools: [TOOL], tool_choice: "none" },
  ],
  ollamaShow: [{ model: "fake" }],
  ollamaChat: [
    { ...chat, options: { temperature: 0.5, num_predict: 5, stop: ["END"] }, keep_alive: "5m" },
    { ...chat, stream: false, format: SCHEMA },
    {
      model: "fake",
      messages: [
        message,
        { role: "assistant", content: "", tool_calls: [{ function: { name: "look", arguments: { a: 1 } } }] },
        { role: "tool", content: "rain", tool_name: "look" },
      ],
      tools: [TOOL],
      think: true,
    },
  ],
  ollamaGenerate: [
    { model: "fake", prompt: "hi", system: "s", stream: false },
    { model: "fake", prompt: "hi", raw: true },
  ],
  ollamaEmbed: [{ model: "fake", input: ["a"], truncate: true, dimensions: 2, keep_alive: "5m", options: { num_ctx: 5 } }],
  ollamaEmbeddings: [{ model: "fake", prompt: "a", keep_alive: 0 }],
  createKey: [{ name: "k", roles: ["submit"], expires_in_ms: 60_000 }],
  rotateKey: [{ overlap_ms: 0 }],
  exportSubject: [{ subject: "s" }, { subject: "s", tenant: "default", cursor: "3", limit: 5 }],
  eraseSubject: [{ subject: "s" }],
  recordConsent: [{ subject: "s", purpose: "p", given: true }],
};
const QUERIES: Readonly<Record<string, readonly string[]>> = {
  listFiles: ["limit=5&order=asc", "purpose=batch&after=file-x", "limit=-1"],
  listBatches: ["limit=5", "after=batch_x", "limit=1e9"],
  listJobs: ["limit=5", "status=queued&model=fake", "cursor=3", "limit=99999999999999999999", "cursor=-1", "status=__proto__"],
  listConsents: ["subject=s", "subject=", "tenant=default", "subject=s&subject=t"],
  drainWorker: ["move=true", "move=maybe"],
};
/** What the fuzz asks: everything under `/v1`, `/v2` and `/api`. */
const ROUTES = Object.entries(orcdRoutes).filter(([, { path }]) => /^\/(v1|v2|api)\//.test(path));

const FIELDS = [...new Set(Object.values(BODIES).flatMap((bodies) => bodies.flatMap((body) => Object.keys(body))))];
const ODD_KEYS = ["__proto__", "constructor", "toString", "hasOwnProperty", "", " ", "𝒳", "a".repeat(5000), "0", "then", "\u0000"];
const ODD_STRINGS = [
  "",
  " ",
  "\u0000",
  "\ud800",
  "\udfff\ud800",
  "\u202e",
  "🐝",
  "e\u0301".repeat(500),
  "../../etc/passwd",
  "%00",
  "'; drop table jobs; --",
];
const NUMBERS = [
  "0",
  "-0",
  "-1",
  "1",
  "0.5",
  "2",
  "1e308",
  "-1e308",
  "1e999",
  "5e-324",
  "9007199254740993",
  "123456789012345678901234567890",
  "4294967296",
  "131073",
];
const HEADERS: Readonly<Record<string, readonly string[]>> = {
  "x-rbees-priority": ["batch", "urgent", "", "batch,batch"],
  "x-rbees-deadline-ms": ["60000", "0", "-1", "1e99", "NaN", "soon", "0x10", ""],
  "x-rbees-prefer": ["w1", "w1,w2,,", ",".repeat(5000), "a b", "w".repeat(200)],
  "x-rbees-avoid": ["w9", "w9,,,w9", "\u00ff\u00fe"],
  "x-rbees-on-disconnect": ["continue", "cancel", "maybe"],
  accept: ["text/event-stream", "application/json", "*/*;q=0", "x".repeat(4000), ""],
  "last-event-id": ["0", "99999999999999", "-1", "abc", "999999999999999999999999"],
  "x-correlation-id": ["corr-1", "a\tb", "x".repeat(300), "é"],
  authorization: ["Bearer", "Bearer x", "Basic eDp5", "Bearer rbk_000000000000_x"],
  "content-type": [
    "text/plain",
    "application/json; charset=utf-16",
    "application/json;;;",
    "multipart/form-data",
    "x",
    "application/x-www-form-urlencoded",
  ],
  "content-encoding": ["gzip", "br", "identity", "nonsense"],
  "anthropic-version": ["2023-06-01", "1"],
  expect: ["100-continue"],
};
const PATHS = [
  ...[
    "/v1/%",
    "/v2/tasks/%E0%A4%A",
    "/v1//chat/completions",
    "/v1/models/..%2f..%2fetc",
    "/v1/models/%00",
    `/v2/tasks/${"a".repeat(600)}`,
    "/api/",
  ],
  ...[
    `/v1/models/${"%F0%9F%90%9D".repeat(50)}`,
    "/v2/tasks?limit=%%",
    `/v2/tasks?${"a=b&".repeat(1500)}`,
    "/v1/chat/completions?model[]=x",
    "/v2/tasks/__proto__",
  ],
];

/** A request, and now and then one that is as it should be. */
export function nextRequest(random: Random, job_id: string): FuzzRequest {
  if (random.chance(0.03)) return { method: "", path: "", headers: {}, body: undefined, raw: noHttp(random) };
  const [name, route] = random.pick(ROUTES);
  // The one worker there is goes on.
  const params: Record<string, string> = {
    id: name === "drainWorker" ? "w9" : random.chance(0.6) ? job_id : random.pick([...ODD_STRINGS, "fake", "job_1"]),
  };
  let path = route.path.replace(/\{(\w+)\}/g, (_, param: string) => encodeURIComponent(wellFormed(params[param] ?? "")));
  const query = QUERIES[name];
  if (query !== undefined && random.chance(0.7)) path += `?${random.pick(query)}`;
  if (random.chance(0.03)) path = random.pick(PATHS);
  const method = random.chance(0.97) ? route.method : random.pick(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"]);
  const headers: Record<string, string> = {};
  const good = BODIES[name];
  let body: Buffer | undefined;
  if (good !== undefined || random.chance(0.02)) {
    headers["content-type"] = "application/json";
    body = bodyOf(random, good === undefined ? {} : random.pick(good));
  }
  if (name === "createFile" && random.chance(0.8)) {
    headers["content-type"] =
      `multipart/form-data; boundary=${random.chance(0.9) ? BOUNDARY : random.pick(ODD_STRINGS).replace(/[^\x21-\x7e]/g, "")}`;
    body = formOf(random);
  }
  for (let n = random.chance(0.3) ? random.from(1, 3) : 0; n > 0; n -= 1) {
    const header = random.pick(Object.keys(HEADERS));
    headers[header] = random.pick(HEADERS[header] as readonly string[]);
  }
  if (body !== undefined && headers["content-encoding"] === "gzip" && random.chance(0.5)) body = gzipSync(body);
  return { method, path, headers, body };
}

const BOUNDARY = "fuzz-boundary";

/** A form with a file that is nearly good. */
function formOf(random: Random): Buffer {
  const part = (name: string, value: string, file = "") =>
    `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"${file}\r\n\r\n${value}\r\n`;
  const purpose = random.chance(0.8) ? part("purpose", random.chance(0.8) ? "batch" : random.pick(ODD_STRINGS)) : "";
  const file = random.chance(0.9) ? part("file", random.pick(["{}\n", ...ODD_STRINGS]), '; filename="in.jsonl"') : part("file", "text");
  const more = random.chance(0.2) ? part("expires_after[seconds]", random.pick(["3600", "-1", "1e99", "x"])) : "";
  const bytes = Buffer.from(`${purpose}${file}${more}--${BOUNDARY}--\r\n`, "utf8");
  return random.chance(0.2) ? brokenBytes(random, bytes) : bytes;
}

function wellFormed(text: string): string {
  return text.toWellFormed() === "" ? "-" : text.toWellFormed();
}

function bodyOf(random: Random, good: object): Buffer {
  const tree: Record<string, unknown> = structuredClone(good) as Record<string, unknown>;
  for (let n = random.chance(0.2) ? 0 : random.from(1, 3); n > 0; n -= 1) harm(random, tree);
  let bytes: Buffer = Buffer.from(json(tree), "utf8");
  if (random.chance(0.12)) bytes = brokenBytes(random, bytes);
  if (random.chance(0.03))
    bytes = Buffer.from(
      random.pick(["", "null", "[]", "7", '"x"', "{", "\ufeff{}", deep(random), '{"a":1}{"b":2}', "NaN", "\u0000"]),
      "utf8",
    );
  if (random.chance(0.02)) bytes = Buffer.from(json(tree), random.pick(["utf16le", "latin1"]));
  return bytes;
}

/** Changes one place of it. */
function harm(random: Random, tree: Record<string, unknown>): void {
  let at: Record<string, unknown> = tree;
  for (;;) {
    const inner = Object.values(at).filter((value) => typeof value === "object" && value !== null && !(value instanceof Text));
    if (inner.length === 0 || random.chance(0.4)) break;
    at = random.pick(inner) as Record<string, unknown>;
  }
  const keys = Object.keys(at);
  const what = random.from(0, 9);
  if (what === 0 && keys.length > 0) {
    const key = random.pick(keys);
    if (Array.isArray(at)) at.splice(Number(key), 1);
    else delete at[key];
    return;
  }
  const key = what <= 5 && keys.length > 0 ? random.pick(keys) : random.pick(random.chance(0.6) ? FIELDS : ODD_KEYS);
  const value = what === 1 && Object.hasOwn(at, key) ? new Text(`[${json(at[key])},${json(at[key])}]`) : ownCopy(anything(random));
  if (Array.isArray(at)) at.push(value);
  else Object.defineProperty(at, key, { value, enumerable: true, configurable: true, writable: true });
}

/** What is harmed later must not be a constant of this file. */
function ownCopy(value: unknown): unknown {
  return value instanceof Text ? value : structuredClone(value);
}

function anything(random: Random): unknown {
  switch (random.from(0, 9)) {
    case 0:
      return random.pick([null, true, false]);
    case 1:
    case 2:
      return new Text(random.pick(NUMBERS));
    case 3:
    case 4:
      return random.pick(ODD_STRINGS);
    case 5:
      return random.pick([[], {}, [null], [[]], ["a"], [1, 2], { type: "text" }, { role: "user" }, [message], { $ref: "#" }]);
    case 6:
      return new Text(deep(random));
    case 7:
      return "x".repeat(random.pick([300, 5000, 70_000]));
    case 8:
      return Array.from({ length: random.pick([5, 17, 4097]) }, () => random.pick(["a", { ...message }]));
    default:
      // The same member twice.
      return new Text('{"type":"text","type":"image","text":"t"}');
  }
}

function deep(random: Random): string {
  const levels = random.pick([30, 1000, 20_000]);
  return random.chance(0.5) ? "[".repeat(levels) + "]".repeat(levels) : `${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`;
}

function json(value: unknown): string {
  if (value instanceof Text) return value.json;
  if (Array.isArray(value)) return `[${value.map(json).join(",")}]`;
  if (typeof value === "object" && value !== null)
    return `{${Object.entries(value)
      .map(([key, inner]) => `${JSON.stringify(key)}:${json(inner)}`)
      .join(",")}}`;
  return JSON.stringify(value);
}

/** Cut off, a byte changed, or bytes that are no UTF-8. */
function brokenBytes(random: Random, bytes: Buffer): Buffer {
  const at = random.from(0, bytes.length);
  if (random.chance(0.3)) return bytes.subarray(0, at);
  const odd = Buffer.from(random.pick(["ff", "c3", "eda080", "f8888080", "00", "c0af", "fe"]), "hex");
  return Buffer.concat([bytes.subarray(0, at), odd, bytes.subarray(at + random.from(0, 1))]);
}

function noHttp(random: Random): Buffer {
  const head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
  return Buffer.from(
    random.pick([
      "GET /v1/models\r\n\r\n",
      "GARBAGE\r\n\r\n",
      "GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n",
      "GET /v1/models HTTP/1.1\r\n\r\n",
      `GET /v1/models HTTP/1.1\r\nhost: x\r\nx-long: ${"a".repeat(20_000)}\r\n\r\n`,
      `GET /v1/models HTTP/1.1\r\nhost: x\r\n${"a: b\r\n".repeat(3000)}\r\n`,
      "GET /v1/models HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
      "GET /v1/mo\u0000dels HTTP/1.1\r\nhost: x\r\n\r\n",
      "GET /v1/\u00e9\u00ff HTTP/1.1\r\nhost: x\r\n\r\n",
      `${head}content-length: 5\r\ncontent-length: 6\r\n\r\n{}`,
      `${head}content-length: -1\r\n\r\n{}`,
      `${head}content-length: abc\r\n\r\n{}`,
      `${head}transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`,
      `${head}transfer-encoding: gzip, nonsense\r\n\r\n{}`,
      `${head}transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n`,
      "\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc\u0003\u0003",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]),
    "latin1",
  );
}
