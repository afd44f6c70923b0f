/** llama-server's own API, as far as it is used: what it is asked, what its answers mean. */
import { RbeesError } from "@rbees/contracts/errors";
import { REPEAT_LAST_N } from "@rbees/contracts/sets";
import { readEvents } from "@rbees/contracts/sse";
import { z } from "zod";
import type { RunRequest } from "../engine.ts";
import type { PromptPart } from "../llama/prompt.ts";
import { patientFetch } from "../patient-fetch.ts";

const Props = z.object({
  default_generation_settings: z.object({ n_ctx: z.int().positive() }),
  build_info: z.string().default(""),
  bos_token: z.string().default(""),
  eos_token: z.string().default(""),
});
export type Props = z.infer<typeof Props>;

const Tokens = z.object({ tokens: z.array(z.int().nonnegative()) });

const Chunk = z.union([
  z.object({ error: z.object({ message: z.string() }) }),
  z.object({
    content: z.string(),
    tokens: z.array(z.int().nonnegative()).default([]),
    stop: z.boolean(),
    stop_type: z.string().optional(),
    tokens_predicted: z.int().nonnegative(),
    /** Tokens of the prompt that need not be computed, where it says so. */
    timings: z.object({ cache_n: z.int().nonnegative().optional() }).optional(),
  }),
]);
export type Chunk = Exclude<z.infer<typeof Chunk>, { error: unknown }>;

/** Text before another one, so that the tokenizer puts no space at the beginning of that. */
const MARKS = ["\n", "a", "1"];
const ASKED_MS_MAX = 30_000;
const REASON_CHARS_MAX = 300;

export class Client {
  readonly #url: string;
  readonly #key: string;
  /** It can't keep prompts apart: once a request had a salt, none uses what another left. */
  #salted = false;
  readonly #never: readonly (readonly [token: number, bias: false])[];

  /** `no_text`: tokens that a grammar would take for the names they have. */
  constructor({ url, key }: { url: string; key: string }, no_text: readonly number[]) {
    this.#url = url;
    this.#key = key;
    this.#never = no_text.map((token) => [token, false] as const);
  }

  async props(): Promise<Props> {
    return Props.parse(await (await this.#ask("/props")).json());
  }

  /** The tokens that come before any text, if the model wants one. */
  async beginning(): Promise<number | undefined> {
    const [none, some] = await Promise.all(["", "a"].map((content) => this.#tokenize(content, false, true)));
    return some?.[0] === none?.[0] ? none?.[0] : undefined;
  }

  async tokens(parts: readonly PromptPart[]): Promise<number[]> {
    return (await Promise.all(parts.map((part) => this.#part(part)))).flat();
  }

  async #part({ text, special, continues }: PromptPart): Promise<number[]> {
    if (text === "") return [];
    if (continues) {
      for (const mark of MARKS) {
        const [before, both] = await Promise.all([this.#tokenize(mark, special), this.#tokenize(mark + text, special)]);
        // Where mark and text grew together into one token, another mark is tried.
        if (before.every((token, i) => both[i] === token)) return both.slice(before.length);
      }
    }
    return await this.#tokenize(text, special);
  }

  async #tokenize(content: string, parse_special: boolean, add_special = false): Promise<number[]> {
    return Tokens.parse(await (await this.#post("/tokenize", { content, add_special, parse_special })).json()).tokens;
  }

  /** Begins to go on after the tokens; what refuses it is thrown before there is a stream. */
  async complete(
    request: RunRequest,
    tokens: readonly number[],
    count: number,
    seed: number,
    signal: AbortSignal,
  ): Promise<AsyncGenerator<Chunk>> {
    const { temperature, top_k = 40, top_p = 0.95, min_p = 0, grammar, logit_bias = {} } = request;
    const { frequency_penalty = 0, presence_penalty = 0, repeat_penalty = 1, repeat_last_n = REPEAT_LAST_N } = request;
    this.#salted ||= request.cache_salt !== undefined;
    // It knows one length for all penalties.
    const looks_back = repeat_penalty === 1 || repeat_last_n < 0 ? tokens.length + count : repeat_last_n;
    const bias = Object.entries(logit_bias).map(([token, more]) => [Number(token), more] as const);
    const body = {
      prompt: tokens,
      n_predict: count,
      ...{ temperature, top_k, top_p, min_p, seed, frequency_penalty, presence_penalty, repeat_penalty, repeat_last_n: looks_back },
      logit_bias: grammar === undefined ? bias : [...bias, ...this.#never],
      ...(grammar === undefined ? {} : { grammar }),
      ...{ stream: true, return_tokens: true, timings_per_token: true, cache_prompt: !this.#salted },
    };
    const answer = await this.#post("/completion", body, signal);
    if (answer.body === null) throw failed("it answered without a body");
    return chunks(answer.body as unknown as AsyncIterable<Uint8Array>);
  }

  async #post(path: string, body: unknown, signal = AbortSignal.timeout(ASKED_MS_MAX)): Promise<Response> {
    return await this.#ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
  }

  async #ask(path: string, { headers, ...init }: RequestInit = {}): Promise<Response> {
    const authorization = { authorization: `Bearer ${this.#key}` };
    const answer = await patientFetch(this.#url + path, { ...init, headers: { ...(headers as Record<string, string>), ...authorization } });
    if (answer.ok) return answer;
    const text = await answer.text().catch(() => "");
    const said = `${answer.status}: ${reasonIn(text).slice(0, REASON_CHARS_MAX)}`;
    if (answer.status === 400) throw new RbeesError("INVALID_REQUEST", `llama-server does not take the request (${said}).`);
    if (answer.status === 503) throw new RbeesError("ALL_SLOTS_BUSY", `llama-server takes no more requests now (${said}).`);
    throw failed(said);
  }
}

async function* chunks(body: AsyncIterable<Uint8Array>): AsyncGenerator<Chunk> {
  for await (const { data } of readEvents(body)) {
    if (data === "[DONE]") return;
    const chunk = Chunk.parse(JSON.parse(data));
    if ("error" in chunk) throw failed(chunk.error.message);
    yield chunk;
  }
}

function failed(why: string): RbeesError {
  return new RbeesError("ENGINE_FAILED", `llama-server failed (${why}).`);
}

function reasonIn(text: string): string {
  try {
    const { error } = JSON.parse(text) as { error?: { message?: unknown } };
    return typeof error?.message === "string" ? error.message : "";
  } catch {
    return "";
  }
}
