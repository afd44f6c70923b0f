/** What was said of the limits of a tenant or a key, made into what holds; and how much is left of them, for whoever asks. */
import type { LimitSettings } from "@rbees/contracts/limits";
import { headroom, mayAskFor, NO_LIMITS, type QuotaLimits } from "@rbees/core/quota";
import type { State } from "@rbees/core/state";
import type { AuditValue } from "@rbees/kit/audit-chain";
import { coreNow } from "./clock.ts";

/** Where nothing was said, `otherwise` holds. */
export function limitsOf(said: LimitSettings, otherwise: QuotaLimits = NO_LIMITS) {
  return {
    requests_per_minute_max: said.requests_per_minute_max ?? otherwise.requests_per_minute_max,
    tokens_per_minute_max: said.tokens_per_minute_max ?? otherwise.tokens_per_minute_max,
    tokens_per_day_max: said.tokens_per_day_max ?? otherwise.tokens_per_day_max,
    jobs_queued_max: said.jobs_queued_max ?? otherwise.jobs_queued_max,
    jobs_running_max: said.jobs_running_max ?? otherwise.jobs_running_max,
    models: [...(said.models ?? otherwise.models)],
    over_limit: said.over_limit ?? otherwise.over_limit,
  } satisfies QuotaLimits;
}

/** The models that somebody may ask for, of those that there are. */
export function modelsFor({ models, quotas }: State, whose: { tenant: string; key_id: string | null }): string[] {
  const accounts = quotas.of({ tenant: whose.tenant, key: whose.key_id });
  return [...models].filter((model) => mayAskFor(accounts, model)).sort();
}

/** The settings for the record, which knows no numbers but whole ones. */
export function saidOf(settings: Readonly<Record<string, unknown>>): Record<string, AuditValue> {
  const said = Object.entries(settings).filter(([, value]) => value !== undefined);
  return Object.fromEntries(
    said.map(([name, value]) => [name, typeof value === "number" && !Number.isInteger(value) ? String(value) : (value as AuditValue)]),
  );
}

/** OpenAI's headers for the tightest of its rates; none where there is none. */
export function rateHeaders({ quotas }: State, whose: { tenant: string; key_id: string | null }): Record<string, string> {
  const accounts = quotas.of({ tenant: whose.tenant, key: whose.key_id });
  const headers: Record<string, string> = {};
  for (const what of ["requests", "tokens"] as const) {
    const room = headroom(accounts, what, coreNow());
    if (room === undefined) continue;
    headers[`x-ratelimit-limit-${what}`] = String(room.limit);
    headers[`x-ratelimit-remaining-${what}`] = String(room.remaining);
    headers[`x-ratelimit-reset-${what}`] = span(room.reset_ms);
  }
  return headers;
}

/** As OpenAI writes it: `1m30s`, `6s`, `250ms`. */
function span(ms: number): string {
  if (ms < 1000) return `${ms}ms`;
  const s = Math.ceil(ms / 1000);
  return s < 60 ? `${s}s` : `${Math.floor(s / 60)}m${s % 60}s`;
}
