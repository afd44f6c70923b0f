/**
 * Whether a worker answers as it should: fixed questions, each asked twice with temperature 0. It looks at the stream and its end, and
 * whether the second answer is the first; what the answers say is for people to judge.
 */
import { randomUUID } from "node:crypto";
import { RbeesError } from "@rbees/contracts/errors";
import { type EndEvent, WorkerEvent } from "@rbees/contracts/events";
import type { PoolAnswerCheck, PoolWorkerCheck } from "@rbees/contracts/pool";
import { Execute } from "@rbees/contracts/worker";
import type { Context } from "../context.ts";
import { healthOf, requireWorker, type WorkerRecord, workerAt } from "./worker-record.ts";

/** The last is cut short, so that this end is seen too. Changing one makes new results no neighbours of old ones. */
const QUESTIONS = [
  { question: "What do bees make?", tokens_max: 48 },
  { question: "What is the capital of France?", tokens_max: 48 },
  { question: "Tell me about bees.", tokens_max: 5 },
] as const;
/** A large model on an old processor may need minutes; one that says nothing for so long hangs. */
const ANSWER_MS_MAX = 300_000;

export async function checkWorker(context: Context, worker_id: string): Promise<PoolWorkerCheck> {
  const record = await requireWorker(context.home, worker_id);
  const answers: PoolAnswerCheck[] = [];
  let tokens_out = 0;
  let decode_ms = 0;
  for (const [at, { question, tokens_max }] of QUESTIONS.entries()) {
    context.progress(`question ${at + 1} of ${QUESTIONS.length}`);
    const first = await ask(context, record, question, tokens_max);
    const second = await ask(context, record, question, tokens_max);
    for (const { end } of [first, second]) {
      tokens_out += end?.tokens_out ?? 0;
      decode_ms += end?.timings.decode_ms ?? 0;
    }
    answers.push(compared(question, first, second));
  }
  const health = await healthOf(context.home, record);
  if (health === undefined) throw new RbeesError("WORKER_LOST", `${worker_id} has answered, and then did not say how it is.`);
  const { model, model_digest, backend, device, engine, context_size, memory_bytes } = health;
  return {
    ...{ worker_id, model, model_digest, backend, device, context_size, memory_bytes, answers },
    engine: `${engine.name} ${engine.version}`,
    tokens_per_second: decode_ms > 0 && tokens_out > 0 ? (1000 * tokens_out) / decode_ms : null,
  };
}

export interface Heard {
  text: string;
  ids: number[];
  first_token_ms: number | null;
  end: EndEvent | undefined;
  problems: string[];
}

async function ask(context: Context, record: WorkerRecord, prompt: string, max_tokens: number): Promise<Heard> {
  const body = Execute.parse({ job_id: `check-${randomUUID()}`, prompt, max_tokens, temperature: 0 });
  const began = performance.now();
  const late = AbortSignal.timeout(ANSWER_MS_MAX);
  try {
    const events = await workerAt(context.home, record).events("execute", { body }, { signal: AbortSignal.any([context.signal, late]) });
    return await listen(events, max_tokens, began);
  } catch (error) {
    context.signal.throwIfAborted();
    const problem = late.aborted
      ? `no whole answer within ${ANSWER_MS_MAX / 1000} s`
      : error instanceof RbeesError
        ? error.message
        : "the connection broke";
    return { text: "", ids: [], first_token_ms: null, end: undefined, problems: [problem] };
  }
}

/** Reads a stream to its end, and notes where it is not as the worker's contract says. */
export async function listen(events: AsyncIterable<{ data: string }>, tokens_max: number, began: number): Promise<Heard> {
  const heard: Heard = { text: "", ids: [], first_token_ms: null, end: undefined, problems: [] };
  const { problems } = heard;
  let seen = 0;
  let ended = false;
  for await (const { data } of events) {
    const event = WorkerEvent.safeParse(parsed(data)).data;
    if (event === undefined) {
      problems.push("an event that is none of the contract's");
      continue;
    }
    if (ended) problems.push(`${event.type} after the end`);
    if (seen === 0 && event.type !== "started" && event.type !== "error") problems.push(`${event.type} came first, not started`);
    seen += 1;
    if (event.type === "token") {
      heard.first_token_ms ??= performance.now() - began;
      if (event.i !== heard.ids.length) problems.push(`token ${event.i} where ${heard.ids.length} was due`);
      heard.ids.push(...event.ids);
      heard.text += event.t;
    }
    if (event.type === "error") problems.push(`${event.code}: ${event.message}`);
    if (event.type === "end") heard.end = event;
    ended ||= event.type === "end" || event.type === "error";
  }
  if (!ended) problems.push("the stream broke off before its end");
  if (heard.end !== undefined) problems.push(...endProblems(heard.end, heard, tokens_max));
  return heard;
}

function endProblems({ stop_reason, tokens_out }: EndEvent, { ids, text }: Heard, tokens_max: number): string[] {
  return [
    tokens_out === ids.length ? undefined : `the end counts ${tokens_out} tokens and ${ids.length} came`,
    stop_reason === "STOP_SEQUENCE" ? "it ended with a stop string, and none was asked for" : undefined,
    stop_reason === "MAX_TOKENS" && tokens_out !== tokens_max ? `MAX_TOKENS after ${tokens_out} of ${tokens_max} tokens` : undefined,
    tokens_out > tokens_max ? `${tokens_out} tokens where at most ${tokens_max} were asked for` : undefined,
    text.trim() === "" ? "an answer without text" : undefined,
  ].filter((problem) => problem !== undefined);
}

export function compared(question: string, first: Heard, second: Heard): PoolAnswerCheck {
  const problems = [...first.problems, ...second.problems.map((problem) => `second run: ${problem}`)];
  const both = first.end !== undefined && second.end !== undefined;
  const same = first.text === second.text && first.ids.join() === second.ids.join() && first.end?.stop_reason === second.end?.stop_reason;
  if (both && !same) problems.push("the second run came out otherwise");
  return {
    question,
    text: first.text,
    stop_reason: first.end?.stop_reason ?? null,
    tokens_in: first.end?.tokens_in ?? 0,
    tokens_out: first.end?.tokens_out ?? 0,
    first_token_ms: first.first_token_ms,
    problems,
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
