/** `rbees workers …`, `rbees models list` and `rbees infer`. */

import type { Context } from "./context.ts";
import { decimal, repeated, verb, whole } from "./verb.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const orchestratorOf = async (context: Context) => (await import("./orchestrator.ts")).orchestratorOf(context);
const rendering = () => import("./render/jobs.ts");

export const registryVerbs = [
  verb(
    {
      path: "workers list",
      summary: "workers that are registered, and how they are",
      examples: ["rbees workers list", "rbees workers list --json | jq -r '.workers[].worker_id'"],
    },
    (command) => command,
    {
      run: async (context) => (await orchestratorOf(context)).call("listWorkers", {}),
      render: async (list, look) => (await rendering()).renderWorkers(list, look),
    },
  ),
  verb(
    {
      path: "workers drain",
      summary: "give a worker no new jobs; what runs there finishes",
      examples: ["rbees workers drain atlas-8001", "rbees workers drain atlas-8001 --move"],
    },
    (command) => command.argument("<id>", "the worker's id").option("--move", "what runs there goes on elsewhere, where it can"),
    {
      run: async (context, { move = false }, id) =>
        (await orchestratorOf(context)).call("drainWorker", { params: { id }, query: move ? { move: "true" } : {} }),
      render: ({ worker_id, jobs_running }) => `${worker_id} takes no new jobs; ${jobs_running} still running.\n`,
    },
  ),
  verb(
    {
      path: "models list",
      summary: "models that a worker serves now or has served",
      examples: ["rbees models list", "rbees models list --json"],
    },
    (command) => command,
    {
      run: async (context) => (await orchestratorOf(context)).call("listModels", {}),
      render: async (list, look) => (await rendering()).renderModels(list, look),
    },
  ),
  verb(
    {
      path: "infer",
      summary: "try a worker directly, past the orchestrator",
      examples: ['rbees infer --worker localhost:8001 --prompt "Write a haiku about Rust" --max-tokens 40'],
    },
    (command) =>
      command
        .requiredOption("--worker <host:port>", "the worker's address")
        .option("--prompt <text>", "the prompt")
        .option("--prompt-file <file>", "read the prompt from a file; - is stdin")
        .option("--max-tokens <n>", "most tokens to generate", whole(1), 100)
        .option("--temperature <n>", "0 is greedy", decimal)
        .option("--seed <n>", "same seed, same text", whole(0))
        .option("--stop <text>", "ends the answer; may be repeated", repeated)
        .option("--raw", "without the model's chat template"),
    {
      run: async (context, flags) => (await import("./jobs/infer.ts")).infer(context, flags),
      exit: (exit) => exit,
    },
  ),
];
