/**
 * Whether what is up already is what `rbees up` was asked for. Only what was asked in so many words counts: without flags, whatever
 * runs is right.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { WorkerHealth, WorkerView } from "@rbees/contracts/worker";
import { isLoopback } from "@rbees/kit/network";
import type { WorkerRecord } from "../pool/worker-record.ts";
import { commandLine } from "../remote/quote.ts";
import { hostOf } from "./route.ts";
import { ORCHESTRATOR_PORT, type UpRecord } from "./up-record.ts";

type Orchestrator = NonNullable<UpRecord["orchestrator"]>;
export interface UpRequest {
  /** Without it the one that is up, else DEMO. */
  model?: string | undefined;
  /** Without it the one that is up, else the processor. */
  backend?: string | undefined;
  /** The orchestrator's port; without it the one it has, else ORCHESTRATOR_PORT. */
  port?: number | undefined;
  worker_port?: number | undefined;
  /** The orchestrator's address, when others than this machine shall reach it. */
  listen?: string | undefined;
  /** Nobody is asked for a key, whoever can reach that address. */
  insecure_no_auth?: boolean | undefined;
  /** It speaks in clear there. */
  insecure_no_tls?: boolean | undefined;
  slots?: number | undefined;
  ctx?: number | undefined;
  threads?: number | undefined;
  deterministic?: boolean | undefined;
  ready_ms_max: number;
}

type Asked = Omit<UpRequest, "ready_ms_max">;

/** In words, such as `4 slots, not 2`. */
type Differences = string[];

/** Throws what to do about it, where the orchestrator of an earlier `up` is not the one that is asked for. */
export function checkOrchestrator(ours: Orchestrator, asked: Asked): void {
  const { port, listen, insecure_no_auth = false, insecure_no_tls = false } = asked;
  // Of one on all addresses the URL has another: that by which this machine reaches it.
  const at = ours.listen ?? hostOf(ours.url);
  const closed = !isLoopback(at);
  const differences: Differences = [
    ...(port === undefined || port === ours.port ? [] : [`on port ${ours.port}, not ${port}`]),
    ...(listen === undefined || listen === at ? [] : [`at ${at}, not ${listen}`]),
    // On loopback nobody is asked and nothing is encrypted anyway.
    ...(insecure_no_auth && closed && ours.insecure_no_auth === false ? ["asking everybody for a key"] : []),
    ...(insecure_no_tls && closed && ours.url.startsWith("https:") ? ["with TLS"] : []),
  ];
  if (differences.length === 0) return;
  const what = `rbees is up already, at ${ours.url}, and not as asked: the orchestrator runs ${differences.join(", ")}.`;
  throw new RbeesError("CONFLICT", `${what} To start anew: \`${anew(asked, ours)}\``);
}

/** The same for the worker of an earlier `up` that has the model. */
export function checkOwnWorker(
  worker: WorkerRecord,
  health: WorkerHealth | undefined,
  { asked, model, ours }: { asked: Asked; model: { name: string; path: string }; ours: Orchestrator | undefined },
): void {
  const { request } = worker;
  const found = {
    backend: worker.backend,
    port: worker.port,
    // What it was started with, and what that came to.
    slots: [request?.slots, health?.slots ?? worker.slots ?? undefined],
    ctx: [request?.ctx, health?.context_size],
    threads: [request?.threads],
    deterministic: request?.deterministic ?? health?.deterministic ?? false,
  };
  const other_file = model.path !== worker.model_path;
  const differences = [...(other_file ? [`from ${worker.model_path}, not ${model.path}`] : []), ...differencesOf(found, asked)];
  if (differences.length === 0) return;
  const what = `rbees is up already, and not as asked: ${model.name} is served by ${worker.worker_id} ${differences.join(", ")}.`;
  // Two files under one name would be one model to the orchestrator.
  const beside = other_file ? "" : ` To add a worker beside it: \`${spawnOf(asked, worker)}\``;
  throw new RbeesError("CONFLICT", `${what} To start anew: \`${anew(asked, ours)}\`.${beside}`);
}

/** The same where others serve it: one of them has to be as asked. */
export function checkOtherWorkers(others: readonly WorkerView[], asked: Asked): void {
  const [first, ...more] = others.map((view) => ({
    view,
    differences: differencesOf(
      {
        backend: view.backend,
        port: Number(new URL(view.address).port),
        slots: [view.slots],
        ctx: [view.context_size ?? undefined],
        threads: [],
        deterministic: undefined,
      },
      asked,
    ),
  }));
  if (first === undefined || [first, ...more].some(({ differences }) => differences.length === 0)) return;
  const { view, differences } = first;
  throw new RbeesError(
    "CONFLICT",
    `${view.model} is served already, by ${view.worker_id}, which \`rbees up\` did not start, and not as asked: ${differences.join(", ")}. To add a worker beside it: \`${spawnOf(asked, view)}\``,
  );
}

interface Found {
  readonly backend: string;
  readonly port: number;
  /** Any of them is what was asked; undefined where it chose by itself. */
  readonly slots: readonly (number | undefined)[];
  readonly ctx: readonly (number | undefined)[];
  readonly threads: readonly (number | undefined)[];
  /** Undefined: nobody knows. */
  readonly deterministic: boolean | undefined;
}

function differencesOf(found: Found, { backend, worker_port, slots, ctx, threads, deterministic }: Asked): Differences {
  const number = (wanted: number | undefined, runs: readonly (number | undefined)[], what: string) => {
    if (wanted === undefined || runs.includes(wanted)) return [];
    const known = runs.findLast((one) => one !== undefined);
    return [`with ${known ?? `${runs.length === 0 ? "an unknown" : "its own"} number of`} ${what}, not ${wanted}`];
  };
  return [
    ...(backend === undefined || backend === found.backend ? [] : [`on ${found.backend}, not ${backend}`]),
    ...(worker_port === undefined || worker_port === found.port ? [] : [`on port ${found.port}, not ${worker_port}`]),
    ...number(slots, found.slots, "slots"),
    ...number(ctx, found.ctx, "tokens of context"),
    ...number(threads, found.threads, "threads"),
    ...(deterministic !== true || found.deterministic === true
      ? []
      : [found.deterministic === undefined ? "perhaps without --deterministic" : "without --deterministic"]),
  ];
}

/** What ends all that is up and starts it as asked; what was not asked stays as it is where that can be said. */
function anew(asked: Asked, ours: Orchestrator | undefined): string {
  const port = asked.port ?? ours?.port;
  const at = ours?.listen;
  const listen = asked.listen ?? (at === undefined || isLoopback(at) ? undefined : at);
  const flags = [
    ...flag("--model", asked.model),
    ...flag("--port", port === ORCHESTRATOR_PORT ? undefined : port),
    ...flag("--listen", listen),
    ...(asked.insecure_no_auth || ours?.insecure_no_auth ? ["--insecure-no-auth"] : []),
    ...(asked.insecure_no_tls || ours?.insecure_no_tls ? ["--insecure-no-tls"] : []),
    ...flag("--backend", asked.backend),
    ...flag("--worker-port", asked.worker_port),
    ...sizes(asked),
  ];
  return `rbees down && ${commandLine(["rbees", "up", ...flags])}`;
}

function spawnOf(asked: Asked, { model, backend }: { model: string; backend: string }): string {
  const flags = [...flag("--model", asked.model ?? model), ...flag("--port", asked.worker_port), ...sizes(asked)];
  return commandLine(["rbees-pool", "worker", "spawn", asked.backend ?? backend, ...flags]);
}

function sizes({ slots, ctx, threads, deterministic }: Asked): string[] {
  return [...flag("--slots", slots), ...flag("--ctx", ctx), ...flag("--threads", threads), ...(deterministic ? ["--deterministic"] : [])];
}

function flag(name: string, value: string | number | undefined): string[] {
  return value === undefined ? [] : [name, String(value)];
}
