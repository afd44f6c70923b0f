/** Section `evicted`: what the memory for lost prefixes saves a prompt that comes again after another took its slot. */
import { median, spread } from "../report.ts";
import type { Bench } from "./bench.ts";
import { Worker } from "./engines.ts";
import { prompt, VOCABULARY } from "./workload.ts";

const CONTEXT_TOKENS = 2048;
const CHUNK_TOKENS = 64;
const PROMPT_TOKENS = 1500;
/** Prompts may begin alike by chance, but no longer than this. */
const CHANCE_TOKENS = 16;
const SHARE_MAX = 0.1;

export async function measureEvicted(bench: Bench): Promise<void> {
  const { processes, options, model_path } = bench;
  const setting = {
    ...{ model_path, vocabulary: VOCABULARY, slots: 1, context_size: CONTEXT_TOKENS },
    ...{ threads: options.threads, chunk_tokens: CHUNK_TOKENS },
  };
  bench.progress("evicted: loading");
  const kept = await Worker.start(processes, "libllama", setting);
  const lost = await Worker.start(processes, "libllama", setting, { "prefix-cache-bytes-max": 0 });
  const with_ms: number[] = [];
  const without_ms: number[] = [];
  try {
    for (let round = 0; round < options.rounds; round += 1) {
      bench.progress(`evicted: round ${round + 1}`);
      // Another goes first each time.
      const turns = [
        async () => with_ms.push(await again(kept, round, true)),
        async () => without_ms.push(await again(lost, round, false)),
      ];
      for (const turn of round % 2 === 0 ? turns : turns.reverse()) await turn();
    }
  } finally {
    bench.progress("");
    await kept.stop();
    await lost.stop();
  }
  const shares = with_ms.map((ms, round) => ms / (without_ms[round] ?? Number.NaN));
  bench.say(
    `\nTime to first token of a prompt of ${PROMPT_TOKENS} tokens that comes again after another took its only slot: put back ${spread(with_ms)} ms, computed ${spread(without_ms)} ms, ratio ${spread(shares, 3)}`,
  );
  bench.verdicts.push({ what: "first token, lost prefix put back ÷ computed", value: median(shares), at_most: SHARE_MAX });
}

/** Milliseconds to the first token of a prompt at its second time. */
async function again(worker: Worker, round: number, cached: boolean): Promise<number> {
  const text = (variant: number) => prompt(PROMPT_TOKENS, 1_000 + 2 * round + variant).text;
  const ask = async (variant: number) => {
    const stream = worker.ask({ prompt: text(variant), max_tokens: 4, seed: round });
    return { end: await stream.ended, first_token_ms: stream.first_token_ms };
  };
  await ask(0);
  await ask(1);
  const { end, first_token_ms } = await ask(0);
  const expected = cached ? PROMPT_TOKENS : 0;
  if (end === undefined || Math.abs(end.tokens_cached - expected) > CHANCE_TOKENS)
    throw new Error(`${end?.tokens_cached} of ${end?.tokens_in} prompt tokens were cached, not ${expected}`);
  return first_token_ms;
}
