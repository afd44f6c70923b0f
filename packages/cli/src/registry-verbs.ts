/** `rbees workers …`, `rbees models list` and `rbees infer`. */

import { RbeesError } from "@rbees/contracts/errors";
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
      path: "workers invite",
      summary: "a token with which one worker may join, once and soon; it is shown this once",
      examples: [
        "rbees workers invite --pool attic --region de",
        "rbees workers invite --worker atlas-8001 --address gateway.lan --expires-minutes 60",
        "rbees workers invite --pool attic | ssh attic.lan 'umask 077; cat > join.token'",
      ],
    },
    (command) =>
      command
        .option("--pool <pool>", "the pool that it will be of")
        .option("--worker <id>", "the only name that it may have")
        .option("--address <host>", "what it may announce although it calls from elsewhere, such as the outside of a port forwarding")
        .option("--region <region>", "where it stands, whatever it says itself (default: that of its pool in pool_regions)")
        .option("--expires-minutes <n>", "how long it may take to join (default 10)", decimal),
    {
      async run(context, { pool, worker: worker_id, address, region, expiresMinutes }) {
        if (pool === undefined && worker_id === undefined)
          throw new RbeesError("INVALID_REQUEST", "Say for whom: --pool, --worker, or both. A token is no good for anybody else.");
        const expires = expiresMinutes === undefined ? {} : { expires_in_ms: Math.round(expiresMinutes * 60_000) };
        const made = await (await orchestratorOf(context)).call("inviteWorker", { body: { pool, worker_id, address, region, ...expires } });
        context.say(`This is the only time the token is shown; it opens the registry once, until ${made.expires_at}.`);
        return made;
      },
      render: ({ token }) => `${token}\n`,
    },
  ),
  verb(
    {
      path: "workers expel",
      summary: "send a worker away for good: it can't register again without a new token",
      examples: ["rbees workers expel atlas-8001"],
    },
    (command) => command.argument("<id>", "the worker's id"),
    {
      run: async (context, _, id) => (await orchestratorOf(context)).call("expelWorker", { params: { id } }),
      render: ({ worker_id, expelled }) =>
        expelled ? `${worker_id} is expelled.\n` : `${worker_id} had no credential; if it was registered, it is not any more.\n`,
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
        .option("--door-file <file>", "file with the secret that the worker asks for (default: that of a worker of this host)")
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
