/** Section `trust`: what it costs the orchestrator to ask for keys, and to speak TLS with clients and workers. */
import { paired, spread, table } from "../report.ts";
import { type Bench, ENDLESS, SMALL } from "./bench.ts";
import type { TrustMode } from "./trusted.ts";

/** At most so many: the harness encrypts each token too, on a core that is not its own. */
const STREAMS_MAX = 100;
const WAYS: readonly (TrustMode | undefined)[] = [undefined, "keys", "keys and TLS"];

export async function measureTrust(bench: Bench): Promise<void> {
  const { harness, options } = bench;
  const streams = Math.min(STREAMS_MAX, options.streams);
  const tokens = WAYS.map((): number[] => []);
  const requests = WAYS.map((): number[] => []);
  for (let round = 0; round < options.rounds; round += 1) {
    for (const offset of WAYS.keys()) {
      const way = (round + offset) % WAYS.length;
      const trust = WAYS[way];
      bench.progress(`trust: round ${round + 1}, ${trust ?? "nothing asked"}`);
      const started = { streams, ...(trust === undefined ? {} : { trust }) };
      await bench.fresh("rbees-orcd", started, async ({ target, pid }) => {
        const small = await harness.requests({ target, connections: 16, pace: SMALL, settle_ms: 200, window_ms: 1000, pid });
        bench.check(`trust: ${trust}, small`, small);
        requests[way]?.push(small.cpu_ns / 1000 / small.requests);
        const pace = { rate: options.rate, tokens: ENDLESS, pad: 0 };
        const long = await harness.streams({
          target,
          streams,
          pace,
          settle_ms: 700,
          window_ms: options.seconds * 1000,
          pid,
        });
        bench.check(`trust: ${trust}, token`, long);
        tokens[way]?.push(long.cpu_ns / 1000 / long.tokens);
      });
    }
  }
  bench.progress("");
  bench.say(
    `\nWhat trust costs: ${streams} streams × ${options.rate} tokens/s, and small requests on 16 connections (${options.rounds} rounds)`,
  );
  const over = (of: number[][], way: number) => (way === 0 ? "–" : spread(paired(of[way] ?? [], of[0] ?? []), 2));
  const rows = WAYS.map((trust, way) => [
    trust ?? "nothing asked",
    spread(tokens[way] ?? []),
    over(tokens, way),
    spread(requests[way] ?? []),
    over(requests, way),
  ]);
  bench.say(table(["", "CPU µs/token", "×", "CPU µs/request", "×"], rows));
}
