/** Files and batches by the official OpenAI client, and a worker that answers their lines. */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import type OpenAI from "openai";
import { toFile } from "openai";
import type { FakeAttempt, FakeWorker } from "../../../test/support/fake-worker.ts";
import type { OrcdConfig } from "../src/config.ts";
import { eventually, type Json } from "./harness.ts";
import { startOpenai } from "./openai-harness.ts";

type Endpoint = "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings";
export const CHAT: Endpoint = "/v1/chat/completions";

export const asking = (text: string) => ({ model: "fake", messages: [{ role: "user", content: text }], max_tokens: 5 });

/** A line for each body; `a0`, `a1`, … */
export function linesOf(bodies: readonly object[], url: string = CHAT): string {
  return bodies.map((body, i) => `${JSON.stringify({ custom_id: `a${i}`, method: "POST", url, body })}\n`).join("");
}

export async function begin(client: OpenAI, text: string, endpoint: Endpoint = CHAT): Promise<OpenAI.Batch> {
  const file = await client.files.create({ purpose: "batch", file: await toFile(Buffer.from(text), "in.jsonl") });
  return await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
}

export const ended = (client: OpenAI, id: string) =>
  eventually(async () => {
    const batch = await client.batches.retrieve(id);
    return ["completed", "failed", "expired", "cancelled"].includes(batch.status) && batch;
  });

export async function contentOf(client: OpenAI, id: string | null | undefined): Promise<Json[]> {
  assert.ok(typeof id === "string");
  const text = await (await client.files.content(id)).text();
  assert.ok(text.endsWith("\n"));
  assert.equal((await client.files.retrieve(id)).bytes, Buffer.byteLength(text));
  return text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/** The worker says to each who asks what it was asked, until it is closed. */
export function echoes(worker: FakeWorker, held: (attempt: FakeAttempt) => boolean = () => false): FakeAttempt[] {
  const seen: FakeAttempt[] = [];
  const answering = async () => {
    for (;;) {
      const attempt = await worker.next();
      seen.push(attempt);
      attempt.started();
      if (!held(attempt)) answered(attempt);
    }
  };
  void answering();
  return seen;
}

export function answered(attempt: FakeAttempt): void {
  attempt.tokens(`you said ${attempt.body.messages?.[0]?.content ?? attempt.body.prompt}`);
  attempt.end();
}

export async function startBatches(t: TestContext, overrides: Partial<OrcdConfig> = {}, more: Record<string, unknown> = {}) {
  return await startOpenai(t, overrides, { slots: 8, features: ["embeddings"], ...more });
}
