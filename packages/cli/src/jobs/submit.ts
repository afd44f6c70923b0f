/** `jobs submit` and `jobs follow`: from flags to a job, and from a job's events to text and an exit code. */
import { readFile } from "node:fs/promises";
import { fieldProblems } from "@rbees/contracts/error-body";
import { EXIT, invalidRequest, RbeesError } from "@rbees/contracts/errors";
import { type Accepted, SubmitJob } from "@rbees/contracts/job";
import type { Context } from "../context.ts";
import { type Orchestrator, orchestratorAt, orchestratorOf } from "../orchestrator.ts";
import { cancelSentence } from "../render/jobs.ts";
import { createAnswer } from "./answer.ts";
import { followJob } from "./follow.ts";
import { tellWaiting } from "./waiting.ts";

export interface SubmitFlags {
  model: string;
  prompt?: string | undefined;
  promptFile?: string | undefined;
  raw?: boolean | undefined;
  maxTokens?: number | undefined;
  temperature?: number | undefined;
  topP?: number | undefined;
  topK?: number | undefined;
  minP?: number | undefined;
  seed?: number | undefined;
  stop?: string[] | undefined;
  reasoningEffort?: string | undefined;
  jsonSchemaFile?: string | undefined;
  grammarFile?: string | undefined;
  lora?: string | undefined;
  logprobs?: number | undefined;
  priority?: string | undefined;
  deadlineMs?: number | undefined;
  pin?: string | undefined;
  prefer?: string[] | undefined;
  avoid?: string[] | undefined;
  label?: Record<string, string> | undefined;
  onWorkerLost?: string | undefined;
  metadata?: Record<string, string> | undefined;
  detach?: boolean | undefined;
}

/** How long a cancellation after Ctrl-C may take before the second Ctrl-C is not waited for. */
const CANCEL_MS_MAX = 5000;

/** The prompt of `--prompt`, else of `--prompt-file`, where `-` is stdin. */
export async function promptOf(context: Context, flags: { prompt?: string | undefined; promptFile?: string | undefined }): Promise<string> {
  if ((flags.prompt === undefined) === (flags.promptFile === undefined)) {
    throw new RbeesError("INVALID_REQUEST", "Give the prompt with either --prompt or --prompt-file (- reads it from stdin).");
  }
  if (flags.prompt !== undefined) return flags.prompt;
  if (flags.promptFile === "-") return context.io.read();
  return fileOf("--prompt-file", flags.promptFile ?? "");
}

function fileOf(flag: string, path: string): Promise<string> {
  return readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new RbeesError("INVALID_REQUEST", `${flag} ${path}: ${error.code === "ENOENT" ? "there is no such file" : error.message}`);
  });
}

/** What the answer is held to, from a file. */
async function structureOf({ jsonSchemaFile, grammarFile }: SubmitFlags): Promise<Pick<SubmitJob, "json_schema" | "grammar">> {
  if (grammarFile !== undefined && jsonSchemaFile !== undefined)
    throw new RbeesError("INVALID_REQUEST", "Give either --json-schema-file or --grammar-file.");
  if (grammarFile !== undefined) return { grammar: await fileOf("--grammar-file", grammarFile) };
  if (jsonSchemaFile === undefined) return {};
  const text = await fileOf("--json-schema-file", jsonSchemaFile);
  try {
    return { json_schema: JSON.parse(text) as Record<string, unknown> };
  } catch (error) {
    throw new RbeesError("INVALID_REQUEST", `--json-schema-file ${jsonSchemaFile}: is not JSON: ${(error as Error).message}`);
  }
}

async function jobOf(context: Context, flags: SubmitFlags): Promise<SubmitJob> {
  const { pin, prefer, avoid, label: labels } = flags;
  const placement = pin ?? prefer ?? avoid ?? labels;
  const parsed = SubmitJob.safeParse({
    model: flags.model,
    prompt: await promptOf(context, flags),
    ...(await structureOf(flags)),
    raw: flags.raw,
    lora: flags.lora,
    max_tokens: flags.maxTokens,
    temperature: flags.temperature,
    top_p: flags.topP,
    top_k: flags.topK,
    min_p: flags.minP,
    seed: flags.seed,
    stop: flags.stop,
    reasoning_effort: flags.reasoningEffort,
    logprobs: flags.logprobs,
    priority: flags.priority,
    deadline_ms: flags.deadlineMs,
    placement: placement === undefined ? undefined : { pin, prefer, avoid, labels },
    on_worker_lost: flags.onWorkerLost,
    metadata: flags.metadata,
  });
  if (!parsed.success) throw invalidRequest(fieldProblems(parsed.error), "job");
  return parsed.data;
}

/** Submits, and unless detached follows to the end. Ctrl-C cancels the job: whoever asked for it has gone. */
export async function submit(context: Context, flags: SubmitFlags): Promise<number> {
  const job = await jobOf(context, flags);
  const orchestrator = await orchestratorOf(context);
  const since_ms = performance.now();
  const accepted = await orchestrator.call("submitJob", { body: job });
  if (flags.detach) return detached(context, accepted);
  return followed(context, orchestrator, accepted.job_id, { since_ms, cancel: true });
}

function detached({ io, json }: Context, accepted: Accepted): number {
  io.out(json ? `${JSON.stringify(accepted)}\n` : `${accepted.job_id}\n`);
  return EXIT.done;
}

export async function follow(context: Context, job_id: string, cancel: boolean): Promise<number> {
  return followed(context, await orchestratorOf(context), job_id, { cancel });
}

async function followed(
  context: Context,
  orchestrator: Orchestrator,
  job_id: string,
  { cancel, since_ms }: { cancel: boolean; since_ms?: number },
): Promise<number> {
  const answer = createAnswer(context, { job_id, ...(since_ms === undefined ? {} : { since_ms }) });
  const waiting = tellWaiting(context, orchestrator, job_id);
  try {
    const last = await followJob(orchestrator, job_id, {
      signal: context.signal,
      onEvent(event) {
        waiting.event(event);
        answer.event(event);
      },
      onBroken: answer.broken,
      onStored: answer.stored,
    });
    waiting.stop();
    return answer.last(last);
  } catch (error) {
    if (!context.signal.aborted) throw error;
    context.progress(undefined);
    if (context.io.out_look.tty) context.io.say("");
    if (cancel) await cancelAfterInterrupt(context, orchestrator.url, job_id);
    else context.say(`Job ${job_id} goes on; \`rbees jobs cancel ${job_id}\` ends it.`);
    return EXIT.interrupted;
  } finally {
    waiting.stop();
  }
}

async function cancelAfterInterrupt(context: Context, url: string, job_id: string): Promise<void> {
  // The first Ctrl-C has stopped everything that hangs on the context's signal.
  const orchestrator = orchestratorAt(context, url, { stop: new AbortController().signal, call_ms_max: CANCEL_MS_MAX });
  try {
    const job = await orchestrator.call("deleteJob", { params: { id: job_id } });
    context.say(cancelSentence(job));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    context.io.say(`Job ${job_id} could not be cancelled (${why}); try: rbees jobs cancel ${job_id}`);
  }
}
