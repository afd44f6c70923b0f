/** What a set of rules would say, told without an orchestrator: the same code on facts that somebody makes up. */

import { Region } from "@rbees/contracts/regions";
import { BACKENDS, PRIORITIES } from "@rbees/contracts/sets";
import { z } from "zod";
import type { JobFacts, WorkerFacts } from "./facts.ts";
import { isThere, type Policy } from "./policy.ts";

const strings = z.record(z.string(), z.string()).default({});

/** A job as it is made up; what is left out is as for a job of which nothing is said. */
export const TriedJob = z.strictObject({
  tenant: z.string().default("default"),
  key: z.strictObject({ id: z.string().default(""), name: z.string().default("") }).default({ id: "", name: "" }),
  model: z.string().default("demo"),
  priority: z.enum(PRIORITIES).default("interactive"),
  prompt_tokens: z.int().nonnegative().default(100),
  max_tokens: z.int().positive().default(100),
  deadline_ms: z.int().nonnegative().default(0),
  metadata: strings,
  labels: strings,
  at: z.iso.datetime({ offset: true }).optional(),
});

export const TriedWorker = z.strictObject({
  id: z.string().default("w1"),
  region: Region.or(z.literal("")).default(""),
  backend: z.enum(BACKENDS).default("cpu"),
  pool: z.string().default(""),
  trust: z.enum(["joined", "open"]).default("joined"),
  slots: z.int().positive().default(1),
  context_size: z.int().nonnegative().default(0),
  labels: strings,
});

export interface TryOut {
  outcome: "allowed" | "denied" | "not on this worker";
  /** The rule that denies. */
  rule: string | null;
  message: string | null;
  mode: string;
  priority: string;
  max_tokens: number;
  /** Null: no rule says. */
  content_keep_ms: number | null;
  preference: number;
  /** Those that hold. */
  rules: string[];
}

export function tryOut(policy: Policy, tried: z.infer<typeof TriedJob>, worker: WorkerFacts | undefined, now_ms: number): TryOut {
  const { tenant, key, model, at, ...job } = tried;
  const facts: JobFacts = { tenant, key, model, job, at_ms: at === undefined ? now_ms : Date.parse(at) };
  const { denied, demands, priority = tried.priority, max_tokens, content_keep_ms = null, rules } = policy.rule(facts);
  const shared = {
    mode: policy.mode,
    priority,
    max_tokens: Math.min(tried.max_tokens, max_tokens ?? tried.max_tokens),
    content_keep_ms,
    preference: 0,
  };
  if (denied !== null) return { outcome: "denied", ...denied, ...shared, rules: [...rules] };
  if (worker === undefined) return { outcome: "allowed", rule: null, message: null, ...shared, rules: [...rules] };
  const ruled = { ...facts, job: { ...job, priority: shared.priority, max_tokens: shared.max_tokens } };
  const verdict = policy.judge(ruled, worker);
  const all = [...new Set([...rules, ...verdict.rules])];
  const lacking = demands.find(
    ({ areas, backends, labels }) =>
      !isThere(
        { region: areas.length > 0 ? areas : undefined, backend: backends.length > 0 ? backends : undefined, labels },
        withPool(worker),
      ),
  );
  if (verdict.barred !== null) return { outcome: "not on this worker", ...verdict.barred, ...shared, rules: all };
  if (lacking !== undefined) {
    const rule = lacking.by.replace(/^rule /, "");
    return { outcome: "not on this worker", rule, message: "the worker has not what it requires", ...shared, rules: all };
  }
  return { outcome: "allowed", rule: null, message: null, ...shared, preference: verdict.preference, rules: all };
}

/** A pool is a label of the worker, too. */
function withPool(worker: WorkerFacts): WorkerFacts {
  return worker.pool === "" ? worker : { ...worker, labels: { ...worker.labels, "rbees.pool": worker.pool } };
}
