/** `rbees jobs …` */

import { Option } from "@commander-js/extra-typings";
import { EXIT } from "@rbees/contracts/errors";
import type { JobStatus } from "@rbees/contracts/job";
import { JOB_STATUSES, PRIORITIES, REASONING_EFFORTS, WORKER_LOST_RULES } from "@rbees/contracts/sets";
import type { Context } from "../context.ts";
import { decimal, pairs, repeated, verb, whole } from "../verb.ts";

/** Loaded when they are called: `--help` need not wait for them. */
const orchestratorOf = async (context: Context) => (await import("../orchestrator.ts")).orchestratorOf(context);
const submitting = () => import("./submit.ts");
const replaying = () => import("./replay.ts");
const rendering = () => import("../render/jobs.ts");

export const jobVerbs = [
  verb(
    {
      path: "jobs submit",
      summary: "submit a job and stream its answer",
      examples: [
        'rbees jobs submit --model demo --prompt "Write a haiku about Rust"',
        "rbees jobs submit --model demo --prompt-file - < question.txt > answer.txt",
        'rbees jobs submit --model demo --prompt "Hello" --temperature 0 --seed 1 --json',
        'rbees jobs submit --model demo --prompt "A person" --json-schema-file person.json',
        'id=$(rbees jobs submit --model demo --prompt "Hello" --detach)',
      ],
    },
    (command) =>
      command
        .requiredOption("--model <model>", "the model's name")
        .option("--prompt <text>", "the prompt")
        .option("--prompt-file <file>", "read the prompt from a file; - is stdin")
        .option("--raw", "without the model's chat template")
        .option("--lora <name>", "through this LoRA adapter of the model's workers")
        .option("--max-tokens <n>", "most tokens to generate (default 100)", whole(1))
        .option("--temperature <n>", "0 is greedy: the likeliest token each time (default 0.7)", decimal)
        .option("--top-p <n>", "only the likeliest tokens that make up this probability", decimal)
        .option("--top-k <n>", "only this many of the likeliest tokens", whole(1))
        .option("--min-p <n>", "only tokens this likely, measured by the likeliest", decimal)
        .option("--seed <n>", "same seed, same worker: the same text", whole(0))
        .option("--stop <text>", "ends the answer; may be repeated, up to four times", repeated)
        .addOption(
          new Option("--reasoning-effort <effort>", "how long the model is to think, where its chat template can say it").choices(
            REASONING_EFFORTS,
          ),
        )
        .option("--json-schema-file <file>", "the answer is JSON that validates against the schema in this file")
        .option("--grammar-file <file>", "the answer is what the grammar (GBNF) in this file allows")
        .option("--logprobs <n>", "with --json: how likely each token was, and this many of the likeliest at its place", whole(0, 20))
        .addOption(new Option("--priority <priority>", "batch jobs let interactive ones pass").choices(PRIORITIES))
        .option("--deadline-ms <ms>", "ends the job this long after submission", whole(1))
        .option("--pin <worker>", "only this worker")
        .option("--prefer <worker>", "this worker if it can; may be repeated", repeated)
        .option("--avoid <worker>", "any worker but this one; may be repeated", repeated)
        .option("--label <k=v,…>", "only workers with these labels; may be repeated", pairs)
        .addOption(new Option("--on-worker-lost <rule>", "once the answer has begun (default continue)").choices(WORKER_LOST_RULES))
        .option("--metadata <k=v,…>", "kept with the job; may be repeated", pairs)
        .option("-d, --detach", "print the job's id and return"),
    {
      run: async (context, flags) => (await submitting()).submit(context, flags),
      exit: (exit) => exit,
    },
  ),
  verb(
    {
      path: "jobs list",
      summary: "jobs, newest first",
      examples: ["rbees jobs list", "rbees jobs list --status running", "rbees jobs list --limit 200 --json"],
    },
    (command) =>
      command
        .addOption(new Option("--status <status>", "only these").choices(JOB_STATUSES))
        .option("--model <model>", "only jobs for this model")
        .option("--tenant <tenant>", "only this tenant's jobs")
        .option("-n, --limit <n>", "how many", whole(1, 200), 20)
        .option("--cursor <cursor>", "where the page before ended"),
    {
      async run(context, { status, model, tenant, limit, cursor }) {
        const query = {
          limit,
          ...(status === undefined ? {} : { status: status as JobStatus }),
          ...(tenant === undefined ? {} : { tenant }),
        };
        const more = { ...(model === undefined ? {} : { model }), ...(cursor === undefined ? {} : { cursor }) };
        const list = await (await orchestratorOf(context)).call("listJobs", { query: { ...query, ...more } });
        if (list.next_cursor !== undefined) context.say(context.io.err_look.dim(`There are more: --cursor ${list.next_cursor}`));
        return list;
      },
      render: async (list, look) => (await rendering()).renderJobs(list, look),
    },
  ),
  verb(
    {
      path: "jobs show",
      summary: "one job: its state, timings, attempts and text",
      examples: ["rbees jobs show job_01jd", "rbees jobs show job_01jd --json | jq -r .text"],
    },
    (command) => command.argument("<id>", "the job's id"),
    {
      run: async (context, _, id) => (await orchestratorOf(context)).call("showJob", { params: { id } }),
      render: async (job, look) => (await rendering()).renderJob(job, look),
    },
  ),
  verb(
    {
      path: "jobs follow",
      summary: "stream a job's answer from its beginning to its end",
      examples: ["rbees jobs follow job_01jd", "rbees jobs follow job_01jd --json"],
    },
    (command) => command.argument("<id>", "the job's id").option("--cancel", "Ctrl-C cancels the job; otherwise it goes on"),
    {
      run: async (context, { cancel = false }, id) => (await submitting()).follow(context, id, cancel),
      exit: (exit) => exit,
    },
  ),
  verb(
    {
      path: "jobs cancel",
      summary: "cancel a job",
      examples: ["rbees jobs cancel job_01jd"],
    },
    (command) => command.argument("<id>", "the job's id"),
    {
      run: async (context, _, id) => (await orchestratorOf(context)).call("deleteJob", { params: { id } }),
      render: async (job) => `${(await rendering()).cancelSentence(job)}\n`,
    },
  ),
  verb(
    {
      path: "jobs replay",
      summary: "run a job again with the same model, engine, seed and parameters: does the same come out?",
      examples: ["rbees jobs replay job_01jd", "rbees jobs replay job_01jd --json | jq .identical"],
    },
    (command) => command.argument("<id>", "the job's id"),
    {
      run: async (context, _, id) => (await replaying()).replay(context, id),
      render: async (result, look) => (await replaying()).renderReplay(result, look),
      exit: ({ identical }) => (identical ? EXIT.done : EXIT.failed),
    },
  ),
  verb(
    {
      path: "jobs why",
      summary: "why a job runs where it does, or what it waits for",
      examples: ["rbees jobs why job_01jd"],
    },
    (command) => command.argument("<id>", "the job's id"),
    {
      run: async (context, _, id) => (await orchestratorOf(context)).call("explainJob", { params: { id } }),
      render: async (why, look) => (await rendering()).renderExplanation(why, look),
    },
  ),
];
