/** The flags by which limits of tenants and keys are said, and how limits are shown. */
import type { Command, OptionValues } from "@commander-js/extra-typings";
import { InvalidArgumentError } from "@commander-js/extra-typings";
import type { LimitSettings, LimitsView } from "@rbees/contracts/limits";
import { OVER_LIMIT_RULES } from "@rbees/contracts/sets";
import { whole } from "./verb.ts";

/** Takes back what was said. A flag can't be null itself: of that Commander makes an empty string. */
export const DEFAULT = "default";
const wholeNumber = whole(0, 1_000_000_000_000);

export type OrDefault<T> = T | typeof DEFAULT;

/** As the API has it: null takes back, and undefined says nothing. */
export function settingOf<T>(flag: OrDefault<T> | undefined): T | null | undefined {
  return flag === DEFAULT ? null : (flag as T | undefined);
}

function amount(text: string): OrDefault<number> {
  return text === DEFAULT ? DEFAULT : wholeNumber(text);
}

function models(text: string): OrDefault<string[]> {
  return text === DEFAULT || text === "all" ? DEFAULT : text.split(",").filter((part) => part !== "");
}

function rule(text: string): OrDefault<(typeof OVER_LIMIT_RULES)[number]> {
  if (text === DEFAULT) return DEFAULT;
  const found = OVER_LIMIT_RULES.find((one) => one === text);
  if (found === undefined) throw new InvalidArgumentError(`Give ${OVER_LIMIT_RULES.join(" or ")}.`);
  return found;
}

export function withLimits<Args extends unknown[], Options extends OptionValues, Globals extends OptionValues>(
  command: Command<Args, Options, Globals>,
) {
  return command
    .option("--requests-per-minute-max <n>", "requests a minute; 0: no limit (for all of these), default: as configured", amount)
    .option("--tokens-per-minute-max <n>", "tokens of prompts and answers a minute", amount)
    .option("--tokens-per-day-max <n>", "tokens a day (UTC)", amount)
    .option("--jobs-queued-max <n>", "jobs that may wait at once", amount)
    .option("--jobs-running-max <n>", "jobs that may run at once; more of them wait", amount)
    .option("--models <list>", "the only models that may be asked for, joined by commas; all: any", models)
    .option("--over-limit <rule>", `over a rate a minute: ${OVER_LIMIT_RULES.join(" (429), or ")} until it is allowed`, rule);
}

interface LimitFlags {
  requestsPerMinuteMax?: OrDefault<number> | undefined;
  tokensPerMinuteMax?: OrDefault<number> | undefined;
  tokensPerDayMax?: OrDefault<number> | undefined;
  jobsQueuedMax?: OrDefault<number> | undefined;
  jobsRunningMax?: OrDefault<number> | undefined;
  models?: OrDefault<string[]> | undefined;
  overLimit?: OrDefault<(typeof OVER_LIMIT_RULES)[number]> | undefined;
}

/** What the flags say; flags that were left out say nothing. */
export function limitsIn(flags: LimitFlags): LimitSettings {
  const { requestsPerMinuteMax, tokensPerMinuteMax, tokensPerDayMax, jobsQueuedMax, jobsRunningMax, models, overLimit } = flags;
  return {
    requests_per_minute_max: settingOf(requestsPerMinuteMax),
    tokens_per_minute_max: settingOf(tokensPerMinuteMax),
    tokens_per_day_max: settingOf(tokensPerDayMax),
    jobs_queued_max: settingOf(jobsQueuedMax),
    jobs_running_max: settingOf(jobsRunningMax),
    models: settingOf(models),
    over_limit: settingOf(overLimit),
  };
}

/** Only the limits that there are. */
export function limitFacts(limits: LimitsView): [string, string | null][] {
  const some = (value: number) => (value === 0 ? null : value.toLocaleString("en-US"));
  const rates = limits.requests_per_minute_max > 0 || limits.tokens_per_minute_max > 0;
  return [
    ["requests a minute", some(limits.requests_per_minute_max)],
    ["tokens a minute", some(limits.tokens_per_minute_max)],
    ["over these", rates ? limits.over_limit : null],
    ["tokens a day", some(limits.tokens_per_day_max)],
    ["jobs waiting", some(limits.jobs_queued_max)],
    ["jobs running", some(limits.jobs_running_max)],
    ["models", limits.models.length === 0 ? null : limits.models.join(", ")],
  ];
}
