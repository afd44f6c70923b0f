/** Models, workers and facts of a host, as people read them. The same for this host and, over SSH, for another. */
import type {
  DeviceFit,
  ModelFit,
  PoolBackend,
  PoolModel,
  PoolStatus,
  PoolUnfinished,
  PoolWorker,
  PoolWorkerCheck,
} from "@rbees/contracts/pool";
import type { Verified } from "../download/verify.ts";
import { age, count, type Look, plural, rate, size } from "../look.ts";
import type { ModelFacts } from "../pool/model-file.ts";
import { facts, table } from "./table.ts";

export function renderModels(models: readonly PoolModel[], look: Look): string {
  return table(
    models,
    [
      { title: "MODEL", of: namesOf, name: true },
      { title: "SIZE", of: (model) => size(model.bytes), right: true },
      { title: "KIND", of: (model) => [model.architecture, model.quantisation].filter((part) => part !== null).join(" ") || "–" },
      { title: "CONTEXT", of: (model) => String(model.context_size ?? "–"), right: true },
      { title: "LICENCE", of: (model) => model.license ?? "–" },
      { title: "FILE", of: (model) => model.path ?? "–", spare: 3 },
    ],
    look,
    "No model is on this host. Download one: rbees-pool models download qwen",
  );
}

export function renderUnfinished(unfinished: readonly PoolUnfinished[], look: Look): string {
  if (unfinished.length === 0) return "";
  const rows = table(
    unfinished,
    [
      { title: "UNFINISHED", of: ({ name }) => name, name: true },
      { title: "HERE", of: ({ bytes, bytes_total }) => `${size(bytes)} of ${size(bytes_total)}`, right: true },
      { title: "DOWNLOADING", of: ({ running }) => (running ? "now" : "no") },
      { title: "FILE", of: ({ file }) => file },
      { title: "FROM", of: ({ reference }) => reference },
    ],
    look,
    "",
  );
  return `\n${rows}`;
}

export function renderCatalogue(models: readonly PoolModel[], look: Look): string {
  return table(
    models,
    [
      { title: "MODEL", of: namesOf, name: true },
      { title: "HERE", of: (model) => (model.present ? "yes" : "no") },
      { title: "SIZE", of: (model) => size(model.bytes), right: true },
      { title: "KIND", of: (model) => model.quantisation ?? "–" },
      { title: "CONTEXT", of: (model) => String(model.context_size ?? "–"), right: true },
      { title: "LICENCE", of: (model) => model.license ?? "–" },
      { title: "FROM", of: (model) => model.reference },
    ],
    look,
    "No model is known.",
  );
}

function namesOf({ name, aliases }: PoolModel): string {
  return [name, ...aliases].join(", ");
}

export function renderModelFacts(
  model: ModelFacts & {
    sha256: string | null;
    reference: string;
    fit: ModelFit;
    devices?: DeviceFit[];
    disk_available_bytes: number | null;
  },
  look: Look,
): string {
  const { fit } = model;
  const free = `${size(fit.available_bytes)} are free`;
  return facts(
    [
      ["file", model.path],
      ["from", model.reference === model.path || model.reference === `file:${model.path}` ? null : model.reference],
      ["size", `${size(model.bytes)}${model.parts > 1 ? ` in ${model.parts} files` : ""}`],
      ["name", model.name],
      ["architecture", model.architecture],
      ["parameters", model.parameters === null ? null : count(model.parameters)],
      ["quantisation", model.quantisation],
      ["context", model.context_size === null ? null : plural(model.context_size, "token")],
      ["layers", model.layers === null ? null : String(model.layers)],
      ["width", model.embedding_length === null ? null : String(model.embedding_length)],
      [
        "tokenizer",
        model.tokenizer === null ? null : `${model.tokenizer}${model.vocabulary === null ? "" : `, vocabulary of ${model.vocabulary}`}`,
      ],
      ["chat template", model.chat_template === null ? "none" : plural(model.chat_template.length, "character")],
      ["license", model.license ?? "not stated"],
      ["sha256", model.sha256],
      ["damage", model.truncated],
      ["memory", `${size(fit.needed_bytes)} for ${plural(fit.slots, "slot")} of ${plural(fit.context_size, "token")}`],
      [
        "",
        fit.measured_bytes === null
          ? "estimated; no worker with these has been measured here yet"
          : `measured here; the estimate was ${size(fit.estimated_bytes)}`,
      ],
      ["", `weights ${size(fit.weights_bytes)}, context ${size(fit.context_bytes)}, engine ${size(fit.overhead_bytes)}`],
      [
        "fits",
        fit.fits
          ? `yes: ${free}`
          : `no: ${free}, ${size(fit.needed_bytes - fit.available_bytes)} are missing; fewer --slots or a smaller --ctx need less`,
      ],
      // A host with an earlier rbees says nothing of these.
      ...(model.devices ?? []).map(onDevice),
      ["disk", model.disk_available_bytes === null ? null : `${size(model.disk_available_bytes)} are free`],
      // Last, because it is long.
      ["template", model.chat_template],
    ],
    look,
  );
}

function onDevice({ backend, index, name, free_bytes, layers, layers_total }: DeviceFit): [string, string] {
  const part = layers === layers_total ? `all ${layers_total} layers` : `${layers} of ${layers_total} layers`;
  return [`on ${backend} ${index}`, `${part}, estimated: ${size(free_bytes)} are free on ${name}`];
}

export function renderVerified(models: readonly Verified[], look: Look): string {
  return table(
    models,
    [
      { title: "MODEL", of: ({ name }) => name, name: true },
      { title: "RIGHT", of: ({ ok }) => (ok ? "yes" : "no") },
      { title: "WHY", of: ({ reason }) => reason },
    ],
    look,
    "No model here has a hash to check.",
  );
}

export function renderPoolWorkers(workers: readonly PoolWorker[], look: Look): string {
  // Where it is looked for in vain, when that is the question.
  const lost = workers.some(({ registered }) => registered === false);
  return table(
    workers,
    [
      { title: "WORKER", of: (worker) => worker.worker_id, name: true },
      { title: "STATUS", of: ({ status, registered }) => (registered === false ? `${status}, not registered` : status) },
      ...(lost ? [{ title: "ORCHESTRATOR", of: ({ joins }: PoolWorker) => joins?.orchestrator ?? "–" }] : []),
      { title: "MODEL", of: (worker) => worker.model },
      { title: "BACKEND", of: (worker) => worker.backend, spare: 5 },
      { title: "ADDRESS", of: (worker) => `${worker.host}:${worker.port}`, spare: 1 },
      { title: "SLOTS", of: (worker) => `${worker.slots_busy ?? "–"}/${worker.slots}`, right: true },
      { title: "TOKENS/S", of: (worker) => rate(worker.tokens_per_second), right: true, spare: 4 },
      { title: "MEMORY", of: (worker) => size(worker.memory_bytes), right: true, spare: 3 },
      { title: "ESTIMATE", of: (worker) => size(worker.estimated_bytes ?? null), right: true, spare: 7 },
      { title: "UP", of: (worker) => age(worker.uptime_seconds), right: true, spare: 2 },
      { title: "PID", of: (worker) => String(worker.pid), right: true, spare: 6 },
    ],
    look,
    "No workers. Start one with: rbees-pool worker spawn cpu --model demo",
  );
}

export function renderBackends(list: readonly PoolBackend[], look: Look): string {
  return table(
    list,
    [
      { title: "BACKEND", of: ({ backend }) => backend, name: true },
      { title: "WORKS", of: ({ works }) => (works ? "yes" : "no") },
      { title: "WHY", of: ({ reason }) => reason },
      {
        title: "DEVICES",
        of: ({ devices }) =>
          devices
            .map(({ index, name, memory_bytes }) => `${index}: ${name}${memory_bytes === null ? "" : `, ${size(memory_bytes)}`}`)
            .join("; ") || "–",
      },
    ],
    look,
    "",
  );
}

export function renderStatus(status: PoolStatus, look: Look): string {
  const host = facts(
    [
      ["host", `${status.host} (${status.platform})`],
      ["cpu", `${plural(status.cpu.cores, "core")}, ${status.cpu.model}`],
      ["memory", `${size(status.memory.available_bytes)} free of ${size(status.memory.total_bytes)}`],
      ["disk", `${size(status.disk.available_bytes)} free of ${size(status.disk.total_bytes)} at ${status.disk.path}`],
      [
        "backends",
        status.backends
          .filter(({ works }) => works)
          .map(({ backend }) => backend)
          .join(", ") || "none",
      ],
      ["models", status.models.map(({ name }) => name).join(", ") || "none"],
    ],
    look,
  );
  return `${host}\n${renderPoolWorkers(status.workers, look)}`;
}

export function renderCheck(check: PoolWorkerCheck, look: Look): string {
  const rows = table(
    check.answers,
    [
      { title: "QUESTION", of: ({ question }) => question, name: true },
      { title: "TOKENS", of: ({ tokens_out }) => String(tokens_out), right: true },
      { title: "ENDED BY", of: ({ stop_reason }) => stop_reason ?? "–" },
      { title: "TWICE", of: ({ problems }) => (problems.length === 0 ? "the same" : problems.join("; ")) },
    ],
    look,
    "No questions.",
  );
  return `${rows}${check.model} on ${check.backend}: ${rate(check.tokens_per_second)} tokens/s, ${size(check.memory_bytes)}\n`;
}
