/**
 * What tenants and keys may use, and what they have used: requests and tokens a minute, tokens a day, jobs that wait and that run, and which
 * models. A job's tokens are reserved when it is let in, as many as prompt and answer may have, and what it did not need is given back at
 * its end. Each check and each entry is constant time.
 */
import type { Refusal } from "./admission.ts";
import { Line } from "./line.ts";
import type { Job, JobSpec, Priority } from "./state.ts";

/** What becomes of a job that is over a rate: it is refused, or waits until the rate allows it. */
export const OVER_LIMIT_RULES = ["refuse", "queue"] as const;
export type OverLimitRule = (typeof OVER_LIMIT_RULES)[number];

/** In each of the numbers 0 means: no limit. */
export interface QuotaLimits {
  readonly requests_per_minute_max: number;
  /** Of prompts and answers together. */
  readonly tokens_per_minute_max: number;
  /** Of the jobs that were submitted on a day (UTC). */
  readonly tokens_per_day_max: number;
  readonly jobs_queued_max: number;
  readonly jobs_running_max: number;
  /** Empty: all. */
  readonly models: readonly string[];
  /** For the rates a minute; what is over any other limit is refused, and what is over `jobs_running_max` waits. */
  readonly over_limit: OverLimitRule;
}

export const NO_LIMITS: QuotaLimits = {
  requests_per_minute_max: 0,
  tokens_per_minute_max: 0,
  tokens_per_day_max: 0,
  jobs_queued_max: 0,
  jobs_running_max: 0,
  models: [],
  over_limit: "refuse",
};

export type Level = "tenant" | "key";

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;

/** What was used of a rate: it drains at that rate, so that after a pause of a minute all of it is there again. */
class Bucket {
  #used = 0;
  #at_ms = 0;

  used(per_minute_max: number, now_ms: number): number {
    this.#used = Math.max(0, this.#used - ((now_ms - this.#at_ms) * per_minute_max) / MINUTE_MS);
    this.#at_ms = now_ms;
    return this.#used;
  }

  /** Negative: given back. */
  take(amount: number, per_minute_max: number, now_ms: number): void {
    if (per_minute_max > 0) this.#used = Math.max(0, this.used(per_minute_max, now_ms) + amount);
  }

  /** Milliseconds until so much may be taken; 0: now. */
  waitMs(amount: number, per_minute_max: number, now_ms: number): number {
    if (per_minute_max === 0) return 0;
    const over = this.used(per_minute_max, now_ms) + amount - per_minute_max;
    return over <= 0 ? 0 : Math.ceil((over * MINUTE_MS) / per_minute_max);
  }
}

/** Of one tenant or one key. */
export interface Account {
  readonly level: Level;
  readonly id: string;
  limits: QuotaLimits;
  readonly requests: Bucket;
  readonly tokens: Bucket;
  /** Days since 1970 (UTC); the day that `day_tokens` are of. */
  day: number;
  /** Used and reserved by the jobs that were submitted on that day. */
  day_tokens: number;
  /** Its jobs that wait, also those that are held. */
  queued: number;
  running: number;
  /** Jobs that wait until its rates allow them, first come first served within a priority. */
  readonly held: Record<Priority, Line<Job>>;
}

/** What is left of a rate for the next request. */
export interface Headroom {
  readonly limit: number;
  readonly remaining: number;
  /** Until all of it is there again. */
  readonly reset_ms: number;
}

export function dayOf(now_ms: number): number {
  return Math.floor(now_ms / DAY_MS);
}

export class Quotas {
  readonly #tenants = new Map<string, Account>();
  readonly #keys = new Map<string, Account>();
  /** Those that hold jobs. */
  readonly holding = new Set<Account>();

  /** `used_today`: tokens, where an earlier life of the orchestrator has counted some. */
  set(level: Level, id: string, limits: QuotaLimits, used_today: number | undefined, now_ms: number): Account {
    const accounts = level === "tenant" ? this.#tenants : this.#keys;
    let account = accounts.get(id);
    if (account === undefined) {
      account = {
        level,
        id,
        limits,
        requests: new Bucket(),
        tokens: new Bucket(),
        day: dayOf(now_ms),
        day_tokens: 0,
        queued: 0,
        running: 0,
        held: { interactive: new Line(), batch: new Line() },
      };
      accounts.set(id, account);
    }
    // What was used so far counts, by the rates as they were.
    account.requests.used(account.limits.requests_per_minute_max, now_ms);
    account.tokens.used(account.limits.tokens_per_minute_max, now_ms);
    account.limits = limits;
    if (used_today !== undefined) account.day_tokens = used_today;
    return account;
  }

  /** Whose limits the job must keep, each of them; none where nothing was ever said of its tenant and its key. */
  of({ tenant, key }: Pick<JobSpec, "tenant" | "key">): readonly Account[] {
    const of_tenant = this.#tenants.get(tenant);
    const of_key = key === null ? undefined : this.#keys.get(key);
    if (of_key === undefined) return of_tenant === undefined ? NONE : [of_tenant];
    return of_tenant === undefined ? [of_key] : [of_tenant, of_key];
  }

  /** Tokens that were used and are reserved today. */
  usedToday(level: Level, id: string, now_ms: number): number {
    const account = (level === "tenant" ? this.#tenants : this.#keys).get(id);
    return account === undefined ? 0 : dayTokens(account, now_ms);
  }
}

const NONE: readonly Account[] = [];

/** Other jobs that are let in with one or not at all, and their tokens. */
export interface Beside {
  readonly jobs: number;
  readonly tokens: number;
}

const ALONE: Beside = { jobs: 0, tokens: 0 };

/** Tokens of prompt and answer beyond which a job could never be let in, where so many come together. */
export function largestRequest(accounts: readonly Account[], together = 1): number {
  let largest = Number.POSITIVE_INFINITY;
  for (const { limits } of accounts) {
    const { tokens_per_minute_max, tokens_per_day_max, over_limit } = limits;
    // Those that wait for the rate do so one by one.
    const at_once = over_limit === "refuse" ? together : 1;
    if (tokens_per_minute_max > 0) largest = Math.min(largest, Math.floor(tokens_per_minute_max / at_once));
    if (tokens_per_day_max > 0) largest = Math.min(largest, Math.floor(tokens_per_day_max / together));
  }
  return largest;
}

/** Whether all of these limits allow this model. */
export function mayAskFor(accounts: readonly Account[], model: string): boolean {
  return accounts.every(({ limits: { models } }) => models.length === 0 || models.includes(model));
}

/** Prompt and answer at their longest. */
export function tokensNeeded({ prompt_tokens, max_tokens }: JobSpec): number {
  return prompt_tokens + max_tokens;
}

function dayTokens(account: Account, now_ms: number): number {
  const today = dayOf(now_ms);
  if (account.day < today) {
    account.day = today;
    account.day_tokens = 0;
  }
  return account.day_tokens;
}

export function nameOf({ level, id }: Account): string {
  return `${level} ${id}`;
}

/** What `overLimit` asks of the queue, if it has to. */
export interface QueueOutlook {
  /** No worker would take the job at once. */
  readonly wouldWait: () => boolean;
  /** Milliseconds until one of those that wait has begun. */
  readonly freeMs: () => number;
}

/** Why the job may not be let in by its tenant's or its key's limits. */
export function overLimit(
  { accounts, spec }: Pick<Job, "accounts" | "spec">,
  outlook: QueueOutlook,
  now_ms: number,
  beside: Beside = ALONE,
): Refusal | undefined {
  let worst: Refusal | undefined;
  for (const account of accounts) {
    const found = refusalBy(account, spec, outlook, now_ms, beside);
    if (found === undefined) continue;
    // What no waiting helps comes first, then what has to be waited for longest.
    if (found.retry_after_ms === undefined) return found;
    if (worst === undefined || (worst.retry_after_ms ?? 0) < found.retry_after_ms) worst = found;
  }
  return worst;
}

function refusalBy(
  account: Account,
  spec: JobSpec,
  { wouldWait, freeMs }: QueueOutlook,
  now_ms: number,
  beside: Beside,
): Refusal | undefined {
  const { models, requests_per_minute_max, tokens_per_minute_max, tokens_per_day_max, jobs_queued_max, over_limit } = account.limits;
  if (models.length > 0 && !models.includes(spec.model)) {
    const message = `The model ${spec.model} may not be used here; ask for ${models.join(" or ")}.`;
    return refusal(account, "FORBIDDEN", "models", message);
  }
  // Those that wait for the rate do so one by one.
  const at_once = over_limit === "refuse" ? beside : ALONE;
  if (requests_per_minute_max > 0 && at_once.jobs >= requests_per_minute_max) {
    const message = `${at_once.jobs + 1} answers are as many requests, and ${requests_per_minute_max} requests are allowed a minute: ask for fewer at once.`;
    return refusal(account, "INVALID_REQUEST", "requests_per_minute_max", message);
  }
  const a_minute = tokensNeeded(spec) + at_once.tokens;
  if (tokens_per_minute_max > 0 && a_minute > tokens_per_minute_max)
    return tooLarge(account, spec, at_once, "tokens_per_minute_max", `${tokens_per_minute_max} are allowed a minute`);
  if (tokens_per_day_max > 0) {
    const tokens = tokensNeeded(spec) + beside.tokens;
    if (tokens > tokens_per_day_max)
      return tooLarge(account, spec, beside, "tokens_per_day_max", `${tokens_per_day_max} are allowed a day`);
    const left = tokens_per_day_max - dayTokens(account, now_ms);
    if (tokens > left) {
      const message = `Of ${tokens_per_day_max} tokens for today (UTC) ${Math.max(0, left)} are left, and the request may take ${tokens}; tomorrow there are more.`;
      return refusal(account, "QUOTA_EXCEEDED", "tokens_per_day_max", message, (dayOf(now_ms) + 1) * DAY_MS - now_ms);
    }
  }
  const over = overRate(account, spec, now_ms, at_once);
  if (over !== undefined && over_limit === "refuse") {
    const most =
      over.limit === "requests_per_minute_max" ? `${account.limits.requests_per_minute_max} requests` : `${tokens_per_minute_max} tokens`;
    const message = `More than ${most} a minute; the next can come in ${Math.ceil(over.wait_ms / 1000)} s.`;
    return refusal(account, "RATE_LIMITED", over.limit, message, over.wait_ms);
  }
  if (jobs_queued_max > 0 && account.queued >= jobs_queued_max && (over !== undefined || wouldWait())) {
    const message = `${account.queued} jobs wait already; let some of them end first.`;
    return refusal(account, "RATE_LIMITED", "jobs_queued_max", message, freeMs());
  }
  return undefined;
}

function tooLarge(account: Account, spec: JobSpec, { jobs, tokens }: Beside, limit: keyof QuotaLimits, allowed: string): Refusal {
  if (jobs > 0) {
    const all = `${jobs + 1} answers and their prompts may take ${tokensNeeded(spec) + tokens} tokens`;
    return refusal(account, "INVALID_REQUEST", limit, `${all}, and ${allowed}: ask for fewer at once, or for fewer max_tokens.`);
  }
  const room = (account.limits[limit] as number) - spec.prompt_tokens;
  const next = room > 0 ? `ask for max_tokens of at most ${room}` : "the prompt alone is too long";
  const message = `Prompt and answer may take ${tokensNeeded(spec)} tokens, and ${allowed}: ${next}.`;
  return refusal(account, "INVALID_REQUEST", limit, message);
}

function refusal(account: Account, code: Refusal["code"], limit: keyof QuotaLimits, message: string, retry_after_ms?: number): Refusal {
  const named = { code, message: `${message} (${limit} of the ${nameOf(account)})`, limit: `${limit} of ${nameOf(account)}` };
  return retry_after_ms === undefined ? named : { ...named, retry_after_ms };
}

/** Which rate has no room for the job, and for how long; undefined when both have. */
function overRate({ limits, requests, tokens }: Account, spec: JobSpec, now_ms: number, beside = ALONE) {
  const { requests_per_minute_max, tokens_per_minute_max } = limits;
  const for_requests = requests.waitMs(1 + beside.jobs, requests_per_minute_max, now_ms);
  // Whoever was let in under a higher limit and needs more than a minute has goes when all of the minute is there.
  const for_tokens = tokens.waitMs(Math.min(tokensNeeded(spec) + beside.tokens, tokens_per_minute_max), tokens_per_minute_max, now_ms);
  if (for_requests === 0 && for_tokens === 0) return undefined;
  return for_requests > for_tokens
    ? ({ limit: "requests_per_minute_max", wait_ms: for_requests } as const)
    : ({ limit: "tokens_per_minute_max", wait_ms: for_tokens } as const);
}

/** The account whose rates the job has to wait for; `behind`: also where others wait already. */
export function heldBy({ accounts, spec }: Job, behind: boolean, now_ms: number): Account | undefined {
  return accounts.find((account) => (behind && heldJobs(account) > 0) || overRate(account, spec, now_ms) !== undefined);
}

export function heldJobs({ held }: Account): number {
  return held.interactive.size + held.batch.size;
}

/** How long the job will be held, were it the next. */
export function heldMs({ accounts, spec }: Job, now_ms: number): number {
  return accounts.reduce((longest, account) => Math.max(longest, overRate(account, spec, now_ms)?.wait_ms ?? 0), 0);
}

/** The job was let in: the day's tokens are its own. */
export function reserve(job: Job, now_ms: number): void {
  if (job.accounts.length === 0) return;
  job.reserved_tokens = tokensNeeded(job.spec);
  job.reserved_day = dayOf(job.spec.submitted_at_ms);
  for (const account of job.accounts) {
    dayTokens(account, now_ms);
    if (account.day === job.reserved_day) account.day_tokens += job.reserved_tokens;
  }
}

/** The rates have room for it: it goes on to the queue. */
export function pay(job: Job, now_ms: number): void {
  job.paid = true;
  for (const { limits, requests, tokens } of job.accounts) {
    requests.take(1, limits.requests_per_minute_max, now_ms);
    tokens.take(job.reserved_tokens, limits.tokens_per_minute_max, now_ms);
  }
}

/** A request that is no job and takes no tokens. */
export function payRequest(accounts: readonly Account[], now_ms: number): void {
  for (const { limits, requests } of accounts) requests.take(1, limits.requests_per_minute_max, now_ms);
}

/** The job is over, and so many tokens were used. */
export function giveBack(job: Job, used_tokens: number, now_ms: number): void {
  const less = used_tokens - job.reserved_tokens;
  for (const account of job.accounts) {
    if (job.paid) account.tokens.take(less, account.limits.tokens_per_minute_max, now_ms);
    dayTokens(account, now_ms);
    if (account.day === job.reserved_day) account.day_tokens = Math.max(0, account.day_tokens + less);
  }
}

/** Whether its tenant and its key may run one more. */
export function mayRun({ accounts }: Pick<Job, "accounts">): boolean {
  for (const account of accounts) if (atRunningMax(account)) return false;
  return true;
}

export function atRunningMax({ limits, running }: Account): boolean {
  return limits.jobs_running_max > 0 && running >= limits.jobs_running_max;
}

/** What is left of the tightest rate of its kind; undefined where there is none. */
export function headroom(accounts: readonly Account[], of: "requests" | "tokens", now_ms: number): Headroom | undefined {
  let tightest: Headroom | undefined;
  for (const account of accounts) {
    const limit = of === "requests" ? account.limits.requests_per_minute_max : account.limits.tokens_per_minute_max;
    if (limit === 0) continue;
    const used = account[of].used(limit, now_ms);
    const remaining = Math.max(0, Math.floor(limit - used));
    if (tightest === undefined || remaining < tightest.remaining)
      tightest = { limit, remaining, reset_ms: Math.ceil((used * MINUTE_MS) / limit) };
  }
  return tightest;
}
