/**
 * Every model on every backend of every pool, one after the other so that they don't slow each other down. All of it goes through the
 * verbs of `rbees-pool`, here as over SSH. A worker that was started is stopped again, whatever happens.
 */
import { randomUUID } from "node:crypto";
import { RbeesError } from "@rbees/contracts/errors";
import { ModelFit, PoolDownloaded, PoolStatus, PoolWorkerCheck } from "@rbees/contracts/pool";
import type { Backend } from "@rbees/contracts/worker";
import { VERSION } from "@rbees/kit/version";
import { z } from "zod";
import type { Context } from "../context.ts";
import { hubAccount } from "../download/hub-account.ts";
import { rate, size } from "../look.ts";
import { call, lastLine } from "../remote/errand.ts";
import { type Target, targetOf } from "../remote/target.ts";
import type { Figures, Host, PoolResult } from "./result.ts";

const STOP_MS_MAX = 60_000;

export interface Combinations {
  models: readonly string[];
  pools: readonly string[];
  backends: readonly Backend[];
}

type Found = Pick<PoolResult, "outcome" | "reason" | "figures">;

/** `onResult` gets each as it is known: Ctrl-C does not take back what was measured. */
export async function testCombinations(
  context: Context,
  { models, pools, backends }: Combinations,
  onResult: (result: PoolResult) => void,
): Promise<void> {
  const total = models.length * pools.length * backends.length;
  let at = 0;
  for (const pool of pools) {
    const machine = await machineOf(context, pool);
    for (const model of models) {
      const source: Source = {
        sized: once((within) => sizeOf(within, machine, model)),
        fetched: once((within) => fetchModel(within, machine, model)),
      };
      for (const backend of backends) {
        at += 1;
        const head = `[${at}/${total}] ${model} on ${backend} of ${pool}`;
        const found = await test(labelled(context, head), machine, { backend, source });
        onResult({
          ...{ pool, model, backend, ...found },
          host: machine.status && hostOf(machine.status, backend),
          at: new Date().toISOString(),
          rbees: VERSION,
        });
        context.progress(undefined);
        context.say(`${head}: ${told(found)}`);
      }
    }
  }
}

interface Machine {
  pool: string;
  target: Target | undefined;
  /** Undefined: it did not answer, and `problem` says why. */
  status: PoolStatus | null;
  problem: string;
}

async function machineOf(context: Context, pool: string): Promise<Machine> {
  try {
    const target = await targetOf(context, pool);
    const status = await ask(labelled(context, `looking at ${pool}`), target, ["status"], PoolStatus);
    return { pool, target, status, problem: "" };
  } catch (error) {
    return { pool, target: undefined, status: null, problem: reasonOf(context, pool, error) };
  }
}

/** A model of one pool: each is done when the first backend wants it. A sentence is the reason for which it can't be had. */
interface Source {
  /** From the header alone, read from afar if need be: what would not fit is not downloaded. */
  sized: (context: Context) => Promise<ModelFit | string>;
  /** The name that it has there, which is another than what was typed where that was a reference. */
  fetched: (context: Context) => Promise<{ name: string } | string>;
}

interface Combination {
  backend: Backend;
  source: Source;
}

async function test(context: Context, { target, status, problem }: Machine, { backend, source }: Combination): Promise<Found> {
  if (target === undefined || status === null) return skipped(`the pool does not answer: ${problem}`);
  const here = status.backends.find((one) => one.backend === backend);
  if (here?.works !== true) return skipped(`${backend} does not work there: ${here?.reason ?? "its rbees does not know it"}`);
  const fit = await source.sized(context);
  if (typeof fit === "string") return skipped(fit);
  const free_bytes = Math.max(
    fit.available_bytes,
    ...(backend === "cuda" ? here.devices.map(({ memory_bytes }) => memory_bytes ?? 0) : []),
  );
  if (fit.needed_bytes > free_bytes)
    return skipped(`does not fit: it needs ${size(fit.needed_bytes)} of memory, and there are ${size(free_bytes)}`);
  const fetched = await source.fetched(context);
  if (typeof fetched === "string") return skipped(fetched);
  const worker_id = `test-${randomUUID().slice(0, 8)}`;
  let found: Found;
  try {
    found = await measure(context, target, { model: fetched.name, backend, worker_id });
  } catch (error) {
    await stop(context, target, worker_id).catch((left) => context.io.say(leftBehind(context, worker_id, target, left)));
    return { outcome: "failed", reason: reasonOf(context, target.name, error), figures: null };
  }
  try {
    await stop(context, target, worker_id);
  } catch (error) {
    return { ...found, outcome: "failed", reason: leftBehind(context, worker_id, target, error) };
  }
  context.signal.throwIfAborted();
  return found;
}

async function measure(
  context: Context,
  target: Target,
  { model, backend, worker_id }: { model: string; backend: Backend; worker_id: string },
): Promise<Found> {
  const flags = [`--model=${model}`, "--orchestrator=none", "--deterministic", `--name=${worker_id}`];
  const began = performance.now();
  await ask(context, target, ["worker", "spawn", backend, ...flags], z.unknown());
  const load_ms = Math.round(performance.now() - began);
  const check = await ask(context, target, ["worker", "check", worker_id], PoolWorkerCheck);
  const problems = check.answers.flatMap(({ question, problems: all }) => all.map((one) => `"${question}": ${one}`));
  const { tokens_per_second, memory_bytes, context_size, model_digest, engine } = check;
  const figures: Figures = {
    ...{ load_ms, tokens_per_second, memory_bytes, context_size, model_digest, engine },
    first_token_ms: check.answers[0]?.first_token_ms ?? null,
    stop_reasons: check.answers.map(({ stop_reason }) => stop_reason),
  };
  return problems.length === 0 ? { outcome: "passed", reason: null, figures } : { outcome: "failed", reason: problems.join("; "), figures };
}

/** Also after Ctrl-C, which must not end this. No jobs of others run there: it need not drain. */
async function stop(context: Context, target: Target, worker_id: string): Promise<void> {
  const own: Context = { ...context, signal: AbortSignal.timeout(STOP_MS_MAX) };
  try {
    await ask(own, target, ["worker", "stop", worker_id, "--now"], z.unknown());
  } catch (error) {
    // What could not be started was ended by who tried.
    if (!(error instanceof RbeesError && error.status === 404)) throw error;
  }
}

async function sizeOf(context: Context, { target }: Machine, model: string): Promise<ModelFit | string> {
  if (target === undefined) return "the pool does not answer";
  try {
    return (await askOfHub(context, target, ["models", "info", model], z.object({ fit: ModelFit }))).fit;
  } catch (error) {
    return cannotBeHad(context, target, error);
  }
}

async function fetchModel(context: Context, { target, status }: Machine, model: string): Promise<{ name: string } | string> {
  if (target === undefined || status?.models.some(({ name }) => name === model) === true) return { name: model };
  try {
    return (await askOfHub(context, target, ["models", "download", model], PoolDownloaded)).model;
  } catch (error) {
    return cannotBeHad(context, target, error);
  }
}

function cannotBeHad(context: Context, { name }: Target, error: unknown): string {
  return `the model can't be had: ${reasonOf(context, name, error)}`;
}

/** What may need a model from the hub. */
function askOfHub<T>(context: Context, target: Target, words: readonly string[], schema: z.ZodType<T>): Promise<T> {
  const { flags, handover } = hubAccount(context.env);
  return ask(context, target, [...words, ...flags], schema, handover);
}

async function ask<T>(context: Context, target: Target, words: readonly string[], schema: z.ZodType<T>, handover?: string): Promise<T> {
  context.signal.throwIfAborted();
  const { out } = await call(context, target, [...words, "--json"], { handover });
  try {
    return schema.parse(JSON.parse(lastLine(out)));
  } catch (cause) {
    const what = words.slice(0, 2).join(" ");
    throw new RbeesError("CONFLICT", `\`rbees-pool ${what}\` answers otherwise than this rbees expects: are both of one version?`, {
      cause,
    });
  }
}

/** Talk from over there begins with what it is about. */
function labelled(context: Context, head: string): Context {
  context.progress(head);
  return {
    ...context,
    say: () => {},
    progress: (step, detail, share) => context.progress(step === undefined ? head : `${head}: ${step}`, detail, share),
  };
}

/** What an operator can act on. Everything else goes on its way: Ctrl-C, and bugs. */
function reasonOf({ signal }: Context, pool: string, error: unknown): string {
  signal.throwIfAborted();
  if (error instanceof RbeesError) return error.message.startsWith(`${pool}: `) ? error.message.slice(pool.length + 2) : error.message;
  throw error;
}

function leftBehind(context: Context, worker_id: string, { name }: Target, error: unknown): string {
  const why = error instanceof Error ? error.message : String(error);
  return `${context.io.err_look.safe(`Worker ${worker_id} of ${name} may still run (${why})`)}: \`rbees pool worker stop ${worker_id} --host ${name}\``;
}

function hostOf({ platform, cpu, backends }: PoolStatus, backend: Backend): Host {
  const device = backend === "cpu" ? undefined : backends.find((one) => one.backend === backend)?.devices[0]?.name;
  return { processor: cpu.model, cores: cpu.cores, system: platform.split("-")[0] ?? platform, device: device ?? null };
}

function skipped(reason: string): Found {
  return { outcome: "skipped", reason, figures: null };
}

function told({ outcome, reason, figures }: Found): string {
  if (outcome === "passed") return `passed, ${rate(figures?.tokens_per_second)} tokens/s`;
  return `${outcome === "failed" ? "FAILED" : "skipped"}: ${reason?.split("\n")[0]}`;
}

function once<Argument, Result>(make: (argument: Argument) => Promise<Result>): (argument: Argument) => Promise<Result> {
  let made: Promise<Result> | undefined;
  return (argument) => {
    made ??= make(argument);
    return made;
  };
}
