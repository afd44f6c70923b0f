/** `rbees batches …`: requests in a file, answered while nobody waits. And `rbees embed`: the vectors of a few texts. */
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { Option } from "@commander-js/extra-typings";
import type { BatchList, BatchObject } from "@rbees/contracts/batch";
import type { EmbeddingList } from "@rbees/contracts/embed";
import { RbeesError } from "@rbees/contracts/errors";
import { BATCH_ENDPOINTS } from "@rbees/contracts/sets";
import type { z } from "zod";
import type { Context } from "./context.ts";
import { ageOf, type Look } from "./look.ts";
import { verb, whole } from "./verb.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const orchestratorOf = async (context: Context) => (await import("./orchestrator.ts")).orchestratorOf(context);

async function bytesOf(context: Context, path: string): Promise<Uint8Array> {
  if (path === "-") return Buffer.from(await context.io.read(), "utf8");
  return await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw new RbeesError("INVALID_REQUEST", `${path}: ${error.code === "ENOENT" ? "there is no such file" : error.message}`);
  });
}

export const batchVerbs = [
  verb(
    {
      path: "batches submit",
      summary: "send a file of requests, one a line as OpenAI has them; they are answered while nobody waits",
      examples: [
        "rbees batches submit questions.jsonl",
        "rbees batches submit texts.jsonl --endpoint /v1/embeddings",
        "id=$(rbees batches submit - --json < questions.jsonl | jq -r .id)",
      ],
    },
    (command) =>
      command
        .argument("<file>", "JSON Lines with custom_id, method, url and body; - is stdin")
        .addOption(new Option("--endpoint <path>", "the url of every line").choices(BATCH_ENDPOINTS).default(BATCH_ENDPOINTS[0])),
    {
      async run(context, { endpoint }, path) {
        const orchestrator = await orchestratorOf(context);
        const bytes = await bytesOf(context, path);
        const file = { name: path === "-" ? "stdin.jsonl" : basename(path), bytes };
        const { id } = await orchestrator.call("createFile", { body: { purpose: "batch", file } });
        return await orchestrator.call("createBatch", { body: { input_file_id: id, endpoint, completion_window: "24h" } });
      },
      render: ({ id }) => `${id}\n`,
    },
  ),
  verb(
    {
      path: "batches list",
      summary: "batches, newest first",
      examples: ["rbees batches list", "rbees batches list --limit 100 --json"],
    },
    (command) => command.option("--limit <n>", "so many (default 20)", whole(1, 100)),
    {
      run: async (context, { limit }) => (await orchestratorOf(context)).call("listBatches", { query: { limit } }),
      render: renderBatches,
    },
  ),
  verb(
    {
      path: "batches show",
      summary: "one batch: how far it is, and what is wrong with its input",
      examples: ["rbees batches show batch_01m8ce8b2n"],
    },
    (command) => command.argument("<id>", "the batch"),
    {
      run: async (context, _, id) => (await orchestratorOf(context)).call("showBatch", { params: { id } }),
      render: renderBatch,
    },
  ),
  verb(
    {
      path: "batches cancel",
      summary: "give no more answers; those that are there stay",
      examples: ["rbees batches cancel batch_01m8ce8b2n"],
    },
    (command) => command.argument("<id>", "the batch"),
    {
      run: async (context, _, id) => (await orchestratorOf(context)).call("cancelBatch", { params: { id } }),
      render: ({ id }) => `Batch ${id} gets no more answers.\n`,
    },
  ),
  verb(
    {
      path: "batches output",
      summary: "print the answers of a batch, one a line",
      examples: ["rbees batches output batch_01m8ce8b2n > answers.jsonl", "rbees batches output batch_01m8ce8b2n --errors"],
    },
    (command) => command.argument("<id>", "the batch").option("--errors", "what has no answer, and why, instead"),
    {
      async run(context, { errors = false }, id) {
        const orchestrator = await orchestratorOf(context);
        const { status, output_file_id, error_file_id } = await orchestrator.call("showBatch", { params: { id } });
        const file = errors ? error_file_id : output_file_id;
        if (file !== null) context.io.out(await orchestrator.text("fileContent", { params: { id: file } }));
        else context.say(`The batch is ${status}, and has no ${errors ? "errors" : "answers"}${isOver(status) ? "" : " yet"}.`);
      },
    },
  ),
  verb(
    {
      path: "embed",
      summary: "the vectors of texts, each a line of JSON",
      examples: ['rbees embed --model demo "bees make honey" "what do bees make?"'],
    },
    (command) =>
      command
        .argument("<texts...>", "the texts")
        .requiredOption("--model <model>", "the model's name")
        .option("--dimensions <n>", "only so many of each vector's first numbers, one long again", whole(1)),
    {
      run: async (context, { model, dimensions }, texts) =>
        (await orchestratorOf(context)).call("openaiEmbeddings", { body: { model, dimensions, input: texts } }),
      render: ({ data }: EmbeddingList) => data.map(({ embedding }) => `${JSON.stringify(embedding)}\n`).join(""),
    },
  ),
];

function isOver(status: BatchObject["status"]): boolean {
  return ["completed", "failed", "expired", "cancelled"].includes(status);
}

function countsOf({ request_counts: { total, completed, failed } }: BatchObject): string {
  return `${completed} of ${total}${failed === 0 ? "" : `, ${failed} failed`}`;
}

async function renderBatches({ data }: z.infer<typeof BatchList>, look: Look): Promise<string> {
  const { table } = await import("./render/table.ts");
  return table(
    data,
    [
      { title: "BATCH", of: ({ id }) => id, name: true },
      { title: "STATUS", of: ({ status }) => status },
      { title: "ANSWERED", of: countsOf, right: true },
      { title: "ENDPOINT", of: ({ endpoint }) => endpoint },
      { title: "AGE", of: ({ created_at }) => ageOf(new Date(created_at * 1000).toISOString(), Date.now()), right: true },
    ],
    look,
    "No batches.",
  );
}

async function renderBatch(batch: BatchObject, look: Look): Promise<string> {
  const { facts } = await import("./render/table.ts");
  const at = (seconds: number | null) => (seconds === null ? null : new Date(seconds * 1000).toISOString());
  const problems = (batch.errors?.data ?? []).map(({ line, message }) => (line === null ? message : `line ${line}: ${message}`));
  return facts(
    [
      ["batch", batch.id],
      ["status", batch.status],
      ["answered", countsOf(batch)],
      ["endpoint", batch.endpoint],
      ["created", at(batch.created_at)],
      ["over at", at(batch.expires_at)],
      ["input", batch.input_file_id],
      ["answers", batch.output_file_id],
      ["errors", batch.error_file_id],
      ...problems.map((problem): [string, string] => ["wrong", problem]),
    ],
    look,
  );
}
