/**
 * Owns the talking to the real llama.cpp: reads work as JSON on stdin, writes the results as JSON on stdout.
 *
 * in:  {model, tokenize: [text], generate: [{prompt, temperature, seed, maxTokens}]}
 * out: {tokens: [[id]], answers: [{text, tokens, ended}]}
 */
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const work = JSON.parse(Buffer.concat(chunks).toString("utf8"));

const llama = await getLlama({ gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: work.model, gpuLayers: 0, checkTensors: true });
const context = await model.createContext({ sequences: 1, contextSize: 2048, threads: 1, flashAttention: false });
const sequence = context.getSequence();

const tokens = (work.tokenize ?? []).map((text) => [...model.tokenize(text, false)]);

const answers = [];
for (const { prompt, temperature = 0, seed, maxTokens = 700 } of work.generate ?? []) {
  await sequence.clearHistory();
  const made = [];
  let ended = false;
  // The prompt holds the template's marks, so special tokens are read as such.
  for await (const token of sequence.evaluate(model.tokenize(prompt, true), {
    temperature,
    seed,
    topK: 40,
    topP: 0.95,
    yieldEogToken: true,
  })) {
    if (model.isEogToken(token)) {
      ended = true;
      break;
    }
    made.push(token);
    if (made.length >= maxTokens) break;
  }
  answers.push({ text: model.detokenize(made, false), tokens: made.length, ended });
  if (answers.length % 200 === 0) process.stderr.write(`${answers.length} answers\n`);
}

process.stdout.write(JSON.stringify({ tokens, answers }));
await llama.dispose();
