/** `rbees-pool worker …` */
import { InvalidArgumentError, Option } from "@commander-js/extra-typings";
import { EXIT } from "@rbees/contracts/errors";
import type { PoolWorker } from "@rbees/contracts/pool";
import { CACHE_TYPES, ENGINES } from "@rbees/contracts/sets";
import { readableLine } from "../local/log-file.ts";
import { plural } from "../look.ts";
import { pairs, port, verb, whole } from "../verb.ts";
import { addressOf, READY_MS_MAX } from "./worker-address.ts";

/** What they do, loaded when it is done: `--help` need not wait for it. */
const commands = () => import("./worker-commands.ts");
const rendering = () => import("../render/pool.ts");

function layers(text: string): number | "auto" {
  if (text === "auto") return text;
  if (!/^\d{1,4}$/.test(text)) throw new InvalidArgumentError('Give "auto" or a whole number from 0 to 9999.');
  return Number(text);
}

function adapter(text: string, before: Record<string, string> = {}): Record<string, string> {
  const [, name, file] = /^([^=,]+)=([^,]+)$/.exec(text) ?? [];
  if (name === undefined || file === undefined) throw new InvalidArgumentError("Give name=FILE.gguf, without commas.");
  return { ...before, [name]: file };
}

export const workerVerbs = [
  verb(
    {
      path: "worker spawn",
      summary: "start a worker and wait until it is ready",
      examples: [
        "rbees-pool worker spawn cpu --model demo",
        "rbees-pool worker spawn cuda --model mistral --gpu 0 --slots 4",
        "rbees-pool worker spawn cpu --model demo --systemd",
        "rbees-pool worker spawn cuda --engine llama-server --engine-path ~/llama.cpp/build/bin/llama-server --model mistral",
        "rbees-pool worker spawn cpu --engine openai --engine-url http://127.0.0.1:8000/v1 --model Qwen/Qwen3-8B --slots 16",
        "rbees-pool worker spawn cpu --model ./mine.gguf --port 8005 --orchestrator none --json",
      ],
    },
    (command) =>
      command
        .argument("<backend>", "cpu, cuda or metal")
        .requiredOption("--model <model>", "a model's name, or a GGUF file")
        .addOption(new Option("--engine <engine>", "what computes (default auto: the first that works)").choices(ENGINES))
        .option("--engine-path <file>", "with --engine llama-server: where that program is (default: on PATH)")
        .option("--engine-url <url>", "with --engine openai: the server that computes, such as http://127.0.0.1:8000/v1")
        .option("--engine-features <list>", "with --engine openai: what that server can do beyond text (default auto: what is known of it)")
        .option("--engine-key-file <file>", "with --engine openai: file with the key that it asks for")
        .option("--gpu <index>", "which GPU", whole(0, 255))
        .option("--gpu-layers <n>", "how many layers the GPU computes; auto: as many as its memory holds", layers)
        .option("--port <port>", "exactly this port (default: the first free one from 8001)", port)
        .option("--listen <address>", "address to listen on (default: loopback, or the one that leads to the orchestrator)")
        .option("--slots <n>", "jobs at once", whole(1, 256))
        .option("--ctx <tokens>", "tokens that one slot can hold", whole(1))
        .addOption(new Option("--cache-type <type>", "how the context is kept (default f16): less memory, less exact").choices(CACHE_TYPES))
        .option(
          "--prefix-cache-bytes-max <n>",
          "memory for what slots lose to other prompts (default: some of what is free, 1 GiB at most; 0: none)",
          whole(),
        )
        .option("--prefix-cache-dir <folder>", "keep that in this folder while the worker is stopped, in clear (default: nowhere)")
        .option("--lora <name=file>", "a LoRA adapter for jobs that ask for it; may be given several times", adapter)
        .option("--speculate <n>", "guess up to n tokens of an answer where that pays (default 0); the text stays", whole(0, 32))
        .option("--prefill-chunk-tokens <n>", "prompt tokens that are computed at once (default 64)", whole(1, 4_096))
        .option(
          "--prefill-stretch-max <n>",
          "beside another's prompt a token may take n times as long (default 3); 0: as long as a whole chunk takes",
          whole(0, 1_000),
        )
        .option("--threads <n>", "processor threads to compute with", whole(1, 1024))
        .option("--deterministic", "the same seed gives the same text, whatever else runs")
        .option("--orchestrator <url>", "whom to register with; none: nobody")
        .option("--insecure-no-auth", "answer everybody who can reach the address, not the orchestrator alone")
        .option("--insecure-no-tls", "speak in clear, with the orchestrator too, where nobody on the network listens")
        .option("--token-file <file>", "file with the join token that the orchestrator asks for (rbees workers invite)")
        .addOption(new Option("--handover", "read what the orchestrator gives along from stdin").hideHelp())
        .option("--advertise <host>", "the address that the orchestrator is told (default: --listen)")
        .option("--systemd", "a unit of this user's systemd keeps it over a reboot")
        .option("--name <id>", "the worker's id (default: host name and port)")
        .option("--region <region>", "where it stands, the country's code first, such as de or fr-par")
        .option("--labels <k=v,…>", "what else placement may ask for", pairs)
        .option("--ready-ms-max <ms>", "how long it may take to get ready", whole(1), READY_MS_MAX)
        .option(
          "--registered-ms-max <ms>",
          "how long the orchestrator may take to accept it (default: 20000 with a join token, else don't wait for that)",
          whole(1),
        ),
    {
      run: async (context, options, backend) => (await commands()).spawn(context, backend, options),
      render: ready,
    },
  ),
  verb(
    {
      path: "worker list",
      summary: "the workers of this host and how they are",
      examples: ["rbees-pool worker list", "rbees-pool worker list --json"],
    },
    (command) => command,
    {
      run: async ({ home }) => ({ workers: await (await commands()).listWorkers(home) }),
      render: async ({ workers }, look) => (await rendering()).renderPoolWorkers(workers, look),
    },
  ),
  verb(
    {
      path: "worker check",
      summary: "ask a worker fixed questions, twice: are its streams whole and its answers the same?",
      examples: ["rbees-pool worker check atlas-8001", "rbees-pool worker check atlas-8001 --json"],
    },
    (command) => command.argument("<id>", "the worker's id"),
    {
      run: async (context, _, worker_id) => (await import("./check.ts")).checkWorker(context, worker_id),
      render: async (check, look) => (await rendering()).renderCheck(check, look),
      exit: ({ answers }) => (answers.every(({ problems }) => problems.length === 0) ? EXIT.done : EXIT.failed),
    },
  ),
  verb(
    {
      path: "worker stop",
      summary: "stop a worker: its jobs finish first",
      examples: ["rbees-pool worker stop atlas-8001", "rbees-pool worker stop atlas-8001 --now"],
    },
    (command) => command.argument("<id>", "the worker's id").option("--now", "don't wait for its jobs"),
    {
      run: async (context, { now = false }, worker_id) => (await commands()).stop(context, worker_id, now),
      render: stopped,
    },
  ),
  verb(
    {
      path: "worker restart",
      summary: "stop a worker as `stop` does, and start it again with the options it had",
      examples: [
        "rbees-pool worker restart atlas-8001",
        "rbees-pool worker restart --port 8001 --now",
        "rbees-pool worker restart atlas-8001 --orchestrator https://newdesk.lan:8080",
      ],
    },
    (command) =>
      command
        .argument("[id]", "the worker's id")
        .option("--port <port>", "the worker that has this port", port)
        .option("--now", "don't wait for its jobs")
        .option("--orchestrator <url>", "whom to register with from now on, as when that has moved (default: as before); none: nobody")
        .option("--token-file <file>", "file with a join token, should it not be known there (rbees workers invite)")
        .addOption(new Option("--handover", "read what the orchestrator gives along from stdin").hideHelp()),
    {
      run: async (context, options, worker_id) => (await commands()).restart(context, options, worker_id),
      render: (worker) => `${stopped(worker)}${ready(worker)}`,
    },
  ),
  verb(
    {
      path: "worker stop-all",
      summary: "stop every worker of this host",
      examples: ["rbees-pool worker stop-all"],
    },
    (command) => command.option("--now", "don't wait for their jobs"),
    {
      run: async (context, { now = false }) => (await commands()).stopAll(context, now),
      render: (result) => (result.stopped.length === 0 ? "No workers.\n" : result.stopped.map(stopped).join("")),
    },
  ),
  verb(
    {
      path: "worker logs",
      summary: "the log of a worker, also of one that has ended",
      examples: [
        "rbees-pool worker logs atlas-8001",
        "rbees-pool worker logs atlas-8001 --follow",
        "rbees-pool worker logs atlas-8001 --lines 500 --json",
      ],
    },
    (command) =>
      command
        .argument("<id>", "the worker's id")
        .option("-f, --follow", "go on as the log grows, until the worker ends")
        .option("-n, --lines <n>", "how many lines back", whole(0, 100_000), 50),
    {
      run: async (context, { follow = false, lines }, worker_id) => (await commands()).showLog(context, worker_id, { follow, lines }),
      renderLine: readableLine,
    },
  ),
];

function ready(worker: PoolWorker): string {
  return `${worker.worker_id} is ready: ${worker.model} on ${worker.backend}, ${plural(worker.slots, "slot")}, ${addressOf(worker)}\n`;
}

function stopped({ worker_id, ended }: { worker_id: string; ended: string }): string {
  const how = { drained: "has finished its jobs and ended", terminated: "has ended", killed: "was killed", dead: "had ended already" }[
    ended
  ];
  return `${worker_id} ${how ?? ended}\n`;
}
