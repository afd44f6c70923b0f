/** `rbees simulate`: what a policy, or another machine, would have meant for requests that once arrived. */
import { InvalidArgumentError } from "@commander-js/extra-typings";
import { POLICIES, type PolicyName } from "@rbees/sim/policies";
import { decimal, verb, whole } from "../verb.ts";

export const simulateVerbs = [
  verb(
    {
      path: "simulate",
      summary: "replay a trace of requests on machines you describe",
      examples: [
        "rbees simulate requests.jsonl.gz --workers 2",
        "rbees simulate requests.csv --speeds 1,0.5,0.25 --slots 4 --policy eta --policy round-robin",
        "rbees simulate requests.jsonl --fleet pool.toml --rate 1.5 --json | jq '.policies[].ttft_s.mean'",
      ],
    },
    (command) =>
      command
        .argument("<trace>", "JSON lines as Mooncake's, or CSV as Azure's; plain or gzip")
        .option("--fleet <file>", "the machines as TOML: [[worker]] tables, and [defaults]")
        .option("--workers <n>", "so many machines (default 8)", whole(1, 4096))
        .option("--speeds <list>", "their speeds, such as 1,1,0.5; begins again when there are more machines", numbers)
        .option("--slots <n>", "requests at once on a machine (default 64)", whole(1, 1_000_000))
        .option("--cache-tokens <n>", "tokens of prompts that a machine keeps (default 499712)", whole(0, 1_000_000_000))
        .option("--policy <name>", `may be repeated (default: all): ${POLICIES.join(", ")}`, policies)
        .option("--rate <x>", "requests arrive so many times as fast", positive, 1)
        .option("--limit <n>", "only the first so many requests", whole(1))
        .option("--tenants <n>", "deal them out to so many, each with half as many as the one before", whole(1, 20))
        .option("--ttft-slo-ms <ms>", "a good answer begins within", positive, 2000)
        .option("--tpot-slo-ms <ms>", "a good answer needs for each further token at most", positive, 100),
    {
      run: async (context, { fleet, workers, speeds, slots, cacheTokens, policy, rate, limit, tenants, ttftSloMs, tpotSloMs }, trace) => {
        const { simulate } = await import("./simulate.ts");
        return simulate(context, {
          trace,
          fleet,
          machines: { workers, speeds, slots, cache_tokens: cacheTokens },
          policies: policy ?? POLICIES,
          rate,
          limit,
          tenants,
          slo: { ttft_ms: ttftSloMs, tpot_ms: tpotSloMs },
        });
      },
      render: async (simulation, look) => (await import("./render.ts")).renderSimulation(simulation, look),
    },
  ),
];

function positive(text: string): number {
  const value = decimal(text);
  if (value <= 0) throw new InvalidArgumentError("Give a number above 0.");
  return value;
}

function numbers(text: string): number[] {
  return text.split(",").map(positive);
}

function policies(text: string, before: readonly PolicyName[] | undefined): readonly PolicyName[] {
  const name = POLICIES.find((one) => one === text);
  if (name === undefined) throw new InvalidArgumentError(`Give one of ${POLICIES.join(", ")}.`);
  return before?.includes(name) ? before : [...(before ?? []), name];
}
