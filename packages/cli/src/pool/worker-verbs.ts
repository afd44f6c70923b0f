/** `rbees-pool worker …` */
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { RbeesError } from "@rbees/contracts/errors";
import { isLoopback } from "@rbees/kit/network";
import type { Context } from "../context.ts";
import { fieldsOf, LogTail, readableLine } from "../local/log-file.ts";
import { isAlive } from "../local/process-identity.ts";
import { addressTowards, hostOf } from "../local/route.ts";
import { plural } from "../look.ts";
import { httpUrl, orchestratorUrl } from "../orchestrator.ts";
import { renderPoolWorkers } from "../render/pool.ts";
import { pairs, port, verb, whole } from "../verb.ts";
import { requireBackend } from "./backends.ts";
import { resolveModel } from "./catalogue.ts";
import { READY_MS_MAX, spawnWorker } from "./spawn.ts";
import { stopWorker } from "./stop.ts";
import { addressOf, describeWorker, listWorkers, readWorkers, requireWorker, workerLog } from "./worker-record.ts";

const LOG_LOOK_MS = 100;

export const workerVerbs = [
  verb(
    {
      path: "worker spawn",
      summary: "start a worker and wait until it is ready",
      examples: [
        "rbees-pool worker spawn cpu --model demo",
        "rbees-pool worker spawn cuda --model mistral --gpu 0 --slots 4",
        "rbees-pool worker spawn cpu --model ./mine.gguf --port 8005 --orchestrator none --json",
      ],
    },
    (command) =>
      command
        .argument("<backend>", "cpu, cuda or metal")
        .requiredOption("--model <model>", "a model's name, or a GGUF file")
        .option("--gpu <index>", "which GPU", whole(0, 255))
        .option("--port <port>", "exactly this port (default: the first free one from 8001)", port)
        .option("--listen <address>", "address to listen on (default: loopback, or the one that leads to the orchestrator)")
        .option("--slots <n>", "jobs at once", whole(1, 256))
        .option("--ctx <tokens>", "tokens that one slot can hold", whole(1))
        .option("--threads <n>", "processor threads to compute with", whole(1, 1024))
        .option("--deterministic", "the same seed gives the same text, whatever else runs")
        .option("--orchestrator <url>", "whom to register with; none: nobody")
        .option("--open-network", "allow an address beyond loopback although callers are not authenticated yet")
        .option("--advertise <host>", "the address that the orchestrator is told (default: --listen)")
        .option("--name <id>", "the worker's id (default: host name and port)")
        .option("--region <region>", "where it stands, such as eu-west")
        .option("--labels <k=v,…>", "what else placement may ask for", pairs)
        .option("--ready-ms-max <ms>", "how long it may take to get ready", whole(1), READY_MS_MAX)
        .option("--registered-ms-max <ms>", "how long the orchestrator may take to accept it (default: don't wait for that)", whole(1)),
    {
      async run(context, options, backend) {
        const orchestrator = await orchestratorFor(context, options.orchestrator);
        const { listen, open_network } = await listenFor(context, orchestrator, options);
        const request = {
          backend: await requireBackend(context, backend, options.gpu),
          model: await resolveModel(context, options.model),
          gpu: options.gpu,
          host: listen,
          port: options.port,
          slots: options.slots,
          ctx: options.ctx,
          threads: options.threads,
          deterministic: options.deterministic,
          orchestrator,
          advertise_host: options.advertise,
          open_network,
          name: options.name,
          region: options.region,
          labels: options.labels,
          ready_ms_max: options.readyMsMax,
          registered_ms_max: options.registeredMsMax,
        };
        return describeWorker(await spawnWorker(context, request));
      },
      render: (worker) =>
        `${worker.worker_id} is ready: ${worker.model} on ${worker.backend}, ${plural(worker.slots, "slot")}, ${addressOf(worker)}\n`,
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
      run: async ({ home }) => ({ workers: await listWorkers(home) }),
      render: ({ workers }, look) => renderPoolWorkers(workers, look),
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
      async run(context, { now = false }, worker_id) {
        return { worker_id, ended: await stopWorker(context, await requireWorker(context.home, worker_id), { now }) };
      },
      render: stopped,
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
      async run(context, { now = false }) {
        const records = await readWorkers(context.home);
        return {
          stopped: await Promise.all(
            records.map(async (record) => ({ worker_id: record.worker_id, ended: await stopWorker(context, record, { now }) })),
          ),
        };
      },
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
      run: (context, { follow = false, lines }, worker_id) => showLog(context, worker_id, { follow, lines }),
      renderLine: readableLine,
    },
  ),
];

function stopped({ worker_id, ended }: { worker_id: string; ended: string }): string {
  const how = { drained: "has finished its jobs and ended", terminated: "has ended", killed: "was killed", dead: "had ended already" }[
    ended
  ];
  return `${worker_id} ${how ?? ended}\n`;
}

async function orchestratorFor(context: Context, given: string | undefined): Promise<string> {
  if (given === "none") return given;
  return given === undefined ? orchestratorUrl(context) : httpUrl(given, "--orchestrator");
}

/**
 * An orchestrator on another machine can call a worker only at an address of the network: the one from which this host talks to that
 * orchestrator, and no other.
 */
async function listenFor(
  context: Context,
  orchestrator: string,
  { listen, openNetwork }: { listen?: string; openNetwork?: true },
): Promise<{ listen: string; open_network: boolean | undefined }> {
  const host = orchestrator === "none" ? "127.0.0.1" : hostOf(orchestrator);
  if (listen !== undefined || isLoopback(host)) return { listen: listen ?? "127.0.0.1", open_network: openNetwork };
  const address = await addressTowards(host);
  if (isLoopback(address)) return { listen: address, open_network: openNetwork };
  context.say(`The worker listens on ${address}: others on that network can reach it too, and callers are not authenticated yet.`);
  return { listen: address, open_network: true };
}

async function showLog(context: Context, worker_id: string, { follow, lines }: { follow: boolean; lines: number }): Promise<void> {
  const { io, home, signal } = context;
  const record = (await readWorkers(home)).find((one) => one.worker_id === worker_id);
  const path = record?.log ?? workerLog(home, worker_id);
  if (!existsSync(path)) throw new RbeesError("NOT_FOUND", `There is no worker "${worker_id}" on this host, and no log of one.`);
  const show = (line: string) => io.out(`${context.json ? jsonOf(line) : readableLine(line, io.out_look)}\n`);
  const tail = new LogTail(path);
  const past = await tail.read();
  for (const line of past.slice(Math.max(0, past.length - lines))) show(line);
  if (!follow || record === undefined) return;
  for (let alive = true; alive; ) {
    // Looked at before reading: what it wrote last is still shown.
    alive = await isAlive(record.process);
    for (const line of await tail.read()) show(line);
    if (alive) await sleep(LOG_LOOK_MS, undefined, { signal });
  }
  context.say(io.err_look.dim(`${worker_id} has ended.`));
}

function jsonOf(line: string): string {
  return JSON.stringify(fieldsOf(line) ?? { msg: line });
}
