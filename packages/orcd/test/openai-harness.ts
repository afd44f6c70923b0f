/** An orchestrator with a fake worker, asked by the official OpenAI client as it is. */
import OpenAI from "openai";
import type { Lifetime } from "../../../test/support/cluster.ts";
import type { FakeAttempt, FakeWorker } from "../../../test/support/fake-worker.ts";
import type { OrcdConfig } from "../src/config.ts";
import { type Harness, startHarness } from "./harness.ts";

export const CHAT = { model: "fake", messages: [{ role: "user" as const, content: "hi" }] };

export interface OpenaiHarness {
  readonly orcd: Harness;
  readonly worker: FakeWorker;
  readonly client: OpenAI;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
}

export async function startOpenai(
  t: Lifetime,
  overrides: Partial<OrcdConfig> = {},
  more: Record<string, unknown> = {},
): Promise<OpenaiHarness> {
  const orcd = await startHarness(t, overrides);
  const worker = await orcd.worker("w1", more);
  return {
    orcd,
    worker,
    client: clientOf(orcd.url),
    post: (path, body, headers = {}) =>
      fetch(orcd.url + path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) }),
  };
}

export function clientOf(url: string, maxRetries = 0): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries });
}

/** The worker says these tokens in answer to its next attempt, and ends. */
export async function answers(
  worker: FakeWorker,
  texts: string[],
  stop_reason: "EOS" | "MAX_TOKENS" | "STOP_SEQUENCE" = "EOS",
  more: Record<string, unknown> = {},
): Promise<FakeAttempt> {
  const attempt = await worker.next();
  attempt.started();
  attempt.tokens(...texts);
  attempt.end(stop_reason, more);
  return attempt;
}

/** What a stream brought until it ended, or until `enough`. */
export async function readChat(
  stream: AsyncIterable<OpenAI.ChatCompletionChunk>,
  enough: (text: string) => boolean = () => false,
): Promise<{ text: string; chunks: OpenAI.ChatCompletionChunk[] }> {
  let text = "";
  const chunks: OpenAI.ChatCompletionChunk[] = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    text += chunk.choices[0]?.delta.content ?? "";
    if (enough(text)) break;
  }
  return { text, chunks };
}
