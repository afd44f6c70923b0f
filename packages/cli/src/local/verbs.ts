/** `rbees up`, `down` and `doctor`. */
import { EXIT } from "@rbees/contracts/errors";
import { type Look, plural } from "../look.ts";
import { READY_MS_MAX } from "../pool/worker-address.ts";
import { port, verb, whole } from "../verb.ts";
import type { DownReport } from "./down.ts";
import type { UpReport } from "./up.ts";

export const localVerbs = [
  verb(
    {
      path: "up",
      summary: "start an orchestrator and a worker on this host",
      examples: [
        "rbees up",
        "rbees up --model tinyllama --slots 4",
        "rbees up --listen 192.168.1.10",
        "rbees up --port 8090 --worker-port 8101 --json",
      ],
    },
    (command) =>
      command
        .option("--model <model>", "a model's name, or a GGUF file (default: the one that is up, else demo)")
        .option("--backend <backend>", "cpu, cuda or metal (default cpu)")
        .option("--port <port>", "the orchestrator's port (default 8080)", port)
        .option("--listen <address>", "the orchestrator's address, for workers and clients on other machines (default 127.0.0.1)")
        .option("--insecure-no-auth", "ask nobody for a key, whoever can reach that address")
        .option("--insecure-no-tls", "speak in clear, where nobody on that network listens")
        .option("--worker-port <port>", "the worker's port (default: the first free one from 8001)", port)
        .option("--slots <n>", "jobs at once", whole(1, 256))
        .option("--ctx <tokens>", "tokens that one slot can hold", whole(1))
        .option("--threads <n>", "processor threads to compute with", whole(1, 1024))
        .option("--deterministic", "the same seed gives the same text, whatever else runs")
        .option("--ready-ms-max <ms>", "how long the worker may take to get ready", whole(1), READY_MS_MAX),
    {
      run: async (context, { workerPort, readyMsMax, insecureNoAuth, insecureNoTls, ...options }) =>
        (await import("./up.ts")).up(context, {
          ...options,
          worker_port: workerPort,
          ready_ms_max: readyMsMax,
          insecure_no_auth: insecureNoAuth,
          insecure_no_tls: insecureNoTls,
        }),
      render: renderUp,
    },
  ),
  verb(
    {
      path: "down",
      summary: "stop what `rbees up` started",
      examples: ["rbees down", "rbees down --now"],
    },
    (command) => command.option("--now", "don't wait for running jobs"),
    {
      run: async (context, { now = false }) => (await import("./down.ts")).down(context, { now }),
      render: renderDown,
    },
  ),
  verb(
    {
      path: "doctor",
      summary: "check everything that rbees needs here",
      examples: ["rbees doctor", "rbees doctor --json"],
    },
    (command) => command,
    {
      run: async (context) => (await import("./doctor.ts")).diagnose(context),
      render: async (diagnosis, look) => (await import("../render/doctor.ts")).renderDiagnosis(diagnosis, look),
      exit: ({ ok }) => (ok ? EXIT.done : EXIT.failed),
    },
  ),
];

function renderUp({ url, model, started, worker, ca, key_file }: UpReport, look: Look): string {
  const already = !started.orchestrator && !started.worker;
  const body = JSON.stringify({ model, prompt: "Write a haiku about Rust", stream: true });
  const curl = [
    "curl -N",
    ...(ca === null ? [] : [`--cacert ${ca}`]),
    `${url}/v2/tasks`,
    ...(key_file === null ? [] : [`-H "authorization: Bearer $(cat ${key_file})"`]),
    `-H 'content-type: application/json' -d '${body}'`,
  ];
  const served =
    worker === null ? "by a worker that was there already" : `by ${worker.worker_id}, ${worker.backend}, ${plural(worker.slots, "slot")}`;
  return `${look.bold(`rbees is ${already ? "up already" : "up"}:`)} ${look.accent(url)}
${model} is served ${served}

${look.dim("Try it:")}
  ${look.runner}rbees jobs submit --model ${model} --prompt "Write a haiku about Rust"
  ${curl.join(" ")}
`;
}

function renderDown({ workers, orchestrator }: DownReport): string {
  const ended: Readonly<Record<string, string>> = {
    drained: "ended",
    terminated: "ended",
    killed: "was killed",
    dead: "had ended already",
  };
  const lines = [
    ...workers.map((worker) => `worker ${worker.worker_id} ${ended[worker.ended]}`),
    ...(orchestrator === null ? [] : [`orchestrator ${orchestrator.url} ${ended[orchestrator.ended]}`]),
  ];
  return lines.length === 0 ? "Nothing was up.\n" : `${lines.join("\n")}\n`;
}
