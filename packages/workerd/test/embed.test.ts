/** Vectors of texts: their numbers against independent computations, what is refused, and that they take a slot and leave it again. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import type { EmbeddingEvent, EndEvent, FailedEvent, WorkerEvent } from "@rbees/contracts/events";
import { readEvents } from "@rbees/contracts/sse";
import { encoderToken, writeEncoderModel } from "../../../models/fixtures/encoder.ts";
import { writeRandomModel } from "../../../models/fixtures/random.ts";
import { openLibrary } from "../src/libllama/library.ts";
import { Tokenizer } from "../src/libllama/tokenizer.ts";
import { POOLING } from "../src/llama/pooling.ts";
import type { Workerd } from "../src/workerd.ts";
import { encoderVector } from "./encoder-by-hand.ts";
import { LIBRARIES } from "./engine-options.ts";
import { ask, folder, health, open, post, startWorker, until } from "./support.ts";

const DEMO = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const TEXTS = ["The bees make honey.", "A queen", "The bees make honey.", "dance ".repeat(90), "Why do bees dance in the hive?"];

interface Embedded {
  vectors: Float32Array[];
  end: EndEvent | undefined;
  error: FailedEvent | undefined;
}

async function embed(worker: Workerd, inputs: unknown, more: Record<string, unknown> = {}): Promise<Embedded> {
  const response = await post(worker, "/embed", { job_id: "job-1", inputs, ...more });
  if (!response.ok || response.body === null) throw new Error(`${response.status}: ${await response.text()}`);
  const events: WorkerEvent[] = [];
  for await (const { data } of readEvents(response.body as unknown as AsyncIterable<Uint8Array>)) events.push(JSON.parse(data));
  const vectors: Float32Array[] = [];
  for (const { i, v } of events.filter((event): event is EmbeddingEvent => event.type === "embedding")) {
    assert.equal(vectors[i], undefined, `input ${i} has one vector`);
    vectors[i] = new Float32Array(Uint8Array.from(Buffer.from(v, "base64")).buffer);
  }
  return {
    vectors,
    end: events.find((event): event is EndEvent => event.type === "end"),
    error: events.find((event): event is FailedEvent => event.type === "error"),
  };
}

function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assert.equal(a.length, b.length);
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    dot += (a[i] ?? 0) * (b[i] ?? 0);
    aa += (a[i] ?? 0) ** 2;
    bb += (b[i] ?? 0) ** 2;
  }
  return dot / Math.sqrt(aa * bb);
}

function assertAlike(a: ArrayLike<number> | undefined, b: ArrayLike<number> | undefined, what: string): void {
  const alike = cosine(a ?? [], b ?? []);
  assert.ok(alike > 0.999, `${what}: the cosine is ${alike}`);
}

function assertUnit(vector: Float32Array): void {
  assert.ok(Math.abs(Math.hypot(...vector) - 1) < 1e-5);
}

/** llama.cpp's own vector of a text, computed at once and pooled by itself. */
async function byLlama(path: string, texts: readonly string[], pooling: number): Promise<number[][]> {
  const llama = await openLibrary();
  llama.hearErrors(() => {});
  const model = llama.model_load_from_file(path, { ...llama.model_default_params(), devices: llama.no_devices, n_gpu_layers: 0 });
  assert.ok(model !== null);
  const tokenizer = new Tokenizer(llama, llama.model_get_vocab(model));
  const context = llama.init_from_model(model, {
    ...llama.context_default_params(),
    ...{ n_ctx: 512, n_batch: 512, n_ubatch: 512, n_threads: 1, n_threads_batch: 1, embeddings: true, pooling_type: pooling },
  });
  assert.ok(context !== null);
  const memory = llama.get_memory(context);
  const batch = llama.batch_init(512, 0, 1);
  const vectors = texts.map((text) => {
    const tokens = tokenizer.around(text);
    if (memory !== null) llama.memory_clear(memory, true);
    llama.ints(batch.token, 512).set(tokens);
    llama.ints(batch.pos, 512).set(tokens.map((_, at) => at));
    llama.ints(batch.n_seq_id, 512).fill(1);
    for (const list of llama.pointers(batch.seq_id, tokens.length)) llama.ints(list, 1)[0] = 0;
    llama.bytes(batch.logits, 512).fill(1);
    batch.n_tokens = tokens.length;
    assert.equal(memory === null ? llama.encode(context, batch) : llama.decode(context, batch), 0);
    const at = llama.get_embeddings_seq(context, 0);
    assert.ok(at !== null);
    return [...llama.floats(at, llama.model_n_embd_out(model))];
  });
  llama.free(context);
  llama.hearErrors(undefined);
  return vectors;
}

for (const engine of LIBRARIES) {
  test(`${engine}: a model that generates: the vector is the state after the last token, alone and among others, and texts go on beside`, async () => {
    const worker = await startWorker({ model: DEMO, slots: 2, ctx: 512, engine });
    const before = (await health(worker)).memory_bytes;
    const answering = ask(worker, { prompt: "Hello", max_tokens: 40, temperature: 0 });
    const { vectors, end } = await embed(worker, TEXTS);
    assert.equal((await answering).error, undefined);
    assert.deepEqual([vectors.length, end?.stop_reason, end?.tokens_out], [TEXTS.length, "EMBEDDED", 0]);
    assert.ok((end?.tokens_in ?? 0) > 100);
    const expected = await byLlama(DEMO, TEXTS, POOLING.last);
    for (const [i, vector] of vectors.entries()) {
      assertUnit(vector);
      assertAlike(vector, expected[i], `text ${i}, by llama.cpp itself`);
    }
    assertAlike(vectors[0], vectors[2], "equal texts");
    assert.ok(cosine(vectors[0] ?? [], vectors[1] ?? []) < 0.99, "other texts");
    const alone = await embed(worker, [TEXTS[4]]);
    assertAlike(alone.vectors[0], vectors[4], "alone");
    assert.equal((await ask(worker, { prompt: "Hello", max_tokens: 40, temperature: 0 })).text, (await answering).text);
    await until(async () => (await health(worker)).memory_bytes > before);
  });
}

for (const [pooling, engine] of (["mean", "cls"] as const).flatMap((pooling) => LIBRARIES.map((engine) => [pooling, engine] as const))) {
  test(`${engine}: a BERT with ${pooling} pooling: its numbers are those of the formulas, batched or alone`, async () => {
    const path = join(folder, `encoder-${pooling}.gguf`);
    writeEncoderModel(path, pooling);
    const worker = await startWorker({ model: path, slots: 2, engine });
    const texts = ["the bees make honey", "queen", "dance in the hive of flowers", "bees unknownword"];
    const { vectors, end } = await embed(worker, texts);
    const words = texts.map((text) => text.split(" ").map(encoderToken));
    assert.equal(
      end?.tokens_in,
      words.reduce((sum, { length }) => sum + length + 2, 0),
      "with [CLS] and [SEP] around",
    );
    for (const [i, vector] of vectors.entries()) {
      assertUnit(vector);
      const by_hand = encoderVector(words[i] ?? [], pooling);
      for (const [at, value] of vector.entries()) assert.ok(Math.abs(value - (by_hand[at] ?? 0)) < 2e-3, `text ${i}, number ${at}`);
    }
    assertAlike((await embed(worker, [texts[2]])).vectors[0], vectors[2], "alone");
  });
}

test("tokens are taken as they are; what is too long is refused by name, or cut with its end mark", async () => {
  const path = join(folder, "encoder.gguf");
  writeEncoderModel(path);
  const worker = await startWorker({ model: path, slots: 2, engine: "libllama" });
  const [cls, sep, bees] = [2, 3, encoderToken("bees")];
  const text = await embed(worker, ["bees"]);
  const tokens = await embed(worker, [[cls, bees, sep]]);
  assertAlike(text.vectors[0], tokens.vectors[0], "the same tokens");
  assert.equal(tokens.end?.tokens_in, 3);

  const long = ["bees", Array(80).fill("honey").join(" ")];
  const refused = await post(worker, "/embed", { job_id: "j", inputs: long });
  const { error } = (await refused.json()) as { error: { code: string; message: string; param: string } };
  assert.deepEqual([refused.status, error.code, error.param], [400, "CONTEXT_TOO_LARGE", "input[1]"]);
  assert.match(error.message, /^input\[1\]: has 82 tokens, and this worker takes 64/);
  assert.ok(!error.message.includes("honey"));
  const cut = await embed(worker, long, { truncate: true });
  const by_hand = await embed(worker, [[cls, ...Array(62).fill(encoderToken("honey")), sep]]);
  assertAlike(cut.vectors[1], by_hand.vectors[0], "cut");

  for (const [inputs, problem] of [
    [[[1, 2, 900]], /400: .*input: token 900 is not in the model's vocabulary of 17/],
    [[], /400: .*inputs/],
    [[""], /400: .*inputs/],
    [[[]], /400: .*inputs/],
  ] as const)
    await assert.rejects(embed(worker, inputs), problem);
});

for (const engine of LIBRARIES)
  test(`${engine}: what a model can't do is refused: text of an encoder, vectors of a reranker`, async () => {
    const encoder = join(folder, "encoder-only.gguf");
    writeEncoderModel(encoder);
    const worker = await startWorker({ model: encoder, slots: 1, engine });
    const text = await post(worker, "/execute", { job_id: "j", prompt: "hi" });
    assert.equal(text.status, 400);
    assert.match(await text.text(), /makes embeddings and no text/);
    assert.equal((await health(worker)).slots_busy, 0);

    const reranker = join(folder, "reranker.gguf");
    writeEncoderModel(reranker, "rank");
    await assert.rejects(startWorker({ model: reranker, engine }), /it is a reranker/);
  });

for (const engine of LIBRARIES) {
  test(`${engine}: they take a slot: it is busy meanwhile, and free when they are cancelled or their client leaves`, async () => {
    const path = join(folder, "random-slots.gguf");
    writeRandomModel(path, {});
    const worker = await startWorker({ model: path, slots: 1, ctx: 2048, engine });
    const inputs = Array.from({ length: 1000 }, (_, i) => `${i} ${"bees dance ".repeat(60)}`);
    const running = post(worker, "/embed", { job_id: "long", inputs });
    await until(async () => (await health(worker)).slots_busy === 1);
    const second = await post(worker, "/execute", { job_id: "other", prompt: "hi" });
    assert.equal(second.status, 503);
    assert.match(await second.text(), /ALL_SLOTS_BUSY/);
    assert.equal((await post(worker, "/cancel", { job_id: "long" })).status, 202);
    assert.match(await (await running).text(), /event: error\ndata: .*"CANCELLED"/);
    await until(async () => (await health(worker)).slots_busy === 0);

    const connection = new AbortController();
    const leaving = await post(worker, "/embed", { job_id: "leaving", inputs }, connection.signal);
    assert.equal(leaving.status, 200);
    connection.abort();
    await until(async () => (await health(worker)).slots_busy === 0);
    const stream = await open(worker, { prompt: "hi", raw: true, max_tokens: 2, temperature: 0 });
    assert.equal((await stream.next())?.type, "started");
    stream.hangUp();
  });
}
