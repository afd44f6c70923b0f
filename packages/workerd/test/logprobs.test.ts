/** How likely tokens were, by the engines that tell it: the numbers against logits that were got without it, and which token has which. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import { ANSWER, bytesOf, chain, type Edge } from "../../../models/fixtures/scripted.ts";
import { WritableBatch } from "../src/libllama/batch.ts";
import { openLibrary } from "../src/libllama/library.ts";
import { likeliest, logSumExp } from "../src/llama/likelihoods.ts";
import type { Workerd } from "../src/workerd.ts";
import { LIBRARIES } from "./engine-options.ts";
import { type Answer, ask, type Body, health, post, scripted, startWorker } from "./support.ts";

const demo = fileURLToPath(new URL("../../../models/demo/demo.gguf", import.meta.url));
const skip = existsSync(demo) ? false : "models/demo/demo.gguf is not there yet";

const entries = ({ tokens }: Answer): TokenLogprob[] => tokens.flatMap(({ logprobs = [] }) => logprobs);
const bytesIn = (told: readonly TokenLogprob[]) => Buffer.concat(told.map(({ token, bytes }) => Buffer.from(bytes ?? token)));

/** Two ways on after each of these words, equally likely; then one way. */
const FORKS: Edge[] = [
  [ANSWER, "one"],
  [ANSWER, "two"],
  ["one", " and"],
  ["two", " and"],
];
const SAYS: Edge[] = [...FORKS, ...chain(" and", [...bytesOf("é🐝"), " END", " of", " it"])];
test("log-softmax and the likeliest, in numbers that would overflow", () => {
  const logits = Float32Array.of(900, 1000, 1000, Number.NEGATIVE_INFINITY, 999);
  assert.ok(Math.abs(logSumExp(logits) - (1000 + Math.log(2 + Math.exp(-1)))) < 1e-9);
  assert.deepEqual(likeliest(logits, 3), [1, 2, 4]);
  assert.deepEqual(likeliest(logits, 0), []);
  assert.deepEqual(likeliest(logits, 9), [1, 2, 4, 0, 3]);
});

for (const engine of LIBRARIES) {
  describe(`on ${engine}`, () => {
    let says: Workerd;
    before(async () => {
      says = await startWorker({ model: scripted("likely", { edges: SAYS }), engine, ctx: 256, slots: 2 });
    });
    const say = (more: Body) => ask(says, { prompt: "hi", max_tokens: 20, temperature: 0, ...more });

    test("what the model leaves open has the likelihood that it has, whatever draws from it", async () => {
      assert.ok((await health(says)).features.includes("logprobs"));
      for (const drawn of [{}, { temperature: 1.5, seed: 3, top_p: 0.1 }, { frequency_penalty: 2 }, { grammar: 'root ::= "two and"' }]) {
        const [first, second] = entries(await say({ ...drawn, logprobs: 3 }));
        assert.ok(Math.abs((first?.logprob ?? 0) + Math.log(2)) < 1e-3, JSON.stringify(first));
        assert.deepEqual(
          first?.top_logprobs
            .slice(0, 2)
            .map(({ token }) => token)
            .sort(),
          ["one", "two"],
        );
        assert.ok((first?.top_logprobs[2]?.logprob ?? 0) < -20);
        assert.ok(second?.token === " and" && second.logprob > -1e-3);
      }
    });

    test("a token that a bias keeps away is told as likely as the model had it", async () => {
      const plain = await say({ logprobs: 2 });
      const other = await say({ logprobs: 2, logit_bias: { [String(plain.ids[0])]: -100 } });
      assert.notEqual(other.text, plain.text);
      const [was, is] = [entries(plain)[0], entries(other)[0]];
      assert.deepEqual(is?.top_logprobs, was?.top_logprobs);
      assert.ok(Math.abs((is?.logprob ?? 0) + Math.log(2)) < 1e-3);
    });

    test("characters of several tokens, stop strings and the end: each token of the text once", async () => {
      const whole = await say({ logprobs: 0 });
      assert.equal(bytesIn(entries(whole)).toString(), whole.text);
      assert.equal(entries(whole).length, whole.end?.tokens_out);
      assert.deepEqual(entries(whole).at(2), { token: "\ufffd", bytes: [0xc3], logprob: entries(whole).at(2)?.logprob, top_logprobs: [] });
      const stopped = await say({ logprobs: 1, stop: ["END of"] });
      assert.match(stopped.text, /^(one|two) andé🐝 $/);
      // The blank before the stop string is part of a token that it cuts into.
      assert.equal(bytesIn(entries(stopped)).toString(), `${stopped.text}END`);
      const cut = await say({ logprobs: 1, max_tokens: 3 });
      assert.deepEqual([cut.text.slice(3), entries(cut).length], [" and\ufffd", 3]);
      assert.deepEqual(entries(await say({})), []);
    });

    test("an answer that is gone on with tells only of new tokens", async () => {
      const whole = await say({ logprobs: 2 });
      const rest = await say({ logprobs: 2, continue_from: { tokens: whole.ids.slice(0, 4) } });
      assert.deepEqual(entries(rest), entries(whole).slice(4));
    });

    test("more than there may be is refused", async () => {
      const refused = await post(says, "/execute", { job_id: "j", prompt: "hi", logprobs: 21 });
      assert.equal(refused.status, 400);
      assert.match(await refused.text(), /logprobs: /);
    });

    test("of the demo model: what its own logits say, worked out apart", { skip }, async () => {
      const worker = await startWorker({ model: demo, engine, ctx: 256, slots: 1 });
      const answer = await ask(worker, { prompt: "Bees dance to", raw: true, max_tokens: 12, temperature: 0, logprobs: 20 });
      const told = entries(answer);
      assert.equal(told.length, 12);

      const llama = await openLibrary();
      const model = llama.model_load_from_file(demo, { ...llama.model_default_params(), devices: llama.no_devices, n_gpu_layers: 0 });
      assert.ok(model !== null);
      const context = llama.init_from_model(model, { ...llama.context_default_params(), n_ctx: 256, n_outputs_max: 64, n_threads: 1 });
      assert.ok(context !== null);
      const vocab = llama.model_get_vocab(model);
      const text = Buffer.from("Bees dance to");
      const room = new Int32Array(64);
      const prompt = room.slice(0, llama.tokenize(vocab, text, text.length, room, room.length, true, true));
      const batch = new WritableBatch(llama, 64);
      const all = [...prompt, ...answer.ids];
      for (const [at, token] of all.entries()) batch.add(token, at, 0, true);
      assert.equal(llama.decode(context, batch.raw), 0);
      const size = llama.vocab_n_tokens(vocab);
      for (const [i, { logprob, top_logprobs }] of told.entries()) {
        const at = llama.get_logits_ith(context, prompt.length - 1 + i);
        assert.ok(at !== null);
        const logits = Array.from(llama.floats(at, size));
        const all_of_it = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
        const expected = logits.map((logit) => Math.log(Math.exp(logit) / all_of_it)).sort((a, b) => b - a);
        assert.ok(Math.abs(logprob - (expected[0] ?? 0)) < 0.02, `${logprob} is not ${expected[0]}: greedy takes the likeliest`);
        for (const [rank, one] of top_logprobs.entries()) {
          assert.ok(Math.abs(one.logprob - (expected[rank] ?? 0)) < 0.02, `${i}.${rank}: ${one.logprob} is not ${expected[rank]}`);
        }
        const share = top_logprobs.reduce((sum, one) => sum + Math.exp(one.logprob), 0);
        assert.ok(share > 0.1 && share <= 1 + 1e-4, String(share));
      }
      batch.free(llama);
      llama.free(context);
    });
  });
}
