/** One run: a quiet minute to learn the truth, then faults and clients at once, then peace, and a look at what is left. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { follow, submit } from "../support/cluster.ts";
import { Random } from "../support/random.ts";
import type { Truth, Violation } from "./checker.ts";
import { newTally, runClient, type Tally } from "./client.ts";
import { checkLedger } from "./ledger.ts";
import { Programs } from "./programs.ts";
import type { Prompt } from "./prompts.ts";
import { describe, type Fault, type Pace, scheduleOf } from "./schedule.ts";
import { type Fleet, System } from "./system.ts";

export interface ChaosOptions {
  readonly seconds: number;
  readonly seed: number;
  readonly clients: number;
  readonly pace: Pace;
  /** `folder`: for models that are written for the run. */
  readonly fleets: (folder: string) => readonly Fleet[];
  readonly prompts: readonly Prompt[];
  readonly say: (line: string) => void;
}

export interface ChaosReport {
  readonly tally: Tally;
  readonly faults: ReadonlyMap<string, number>;
  readonly summary: string;
  /** Each with the faults and the log around it. */
  readonly violations: readonly string[];
}

type Violated = (rule: string, expected: unknown, seen: unknown) => void;

const VIOLATIONS_SHOWN = 5;
const LOG_LINES_SHOWN = 30;

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const programs = new Programs();
  try {
    return await run(options, programs);
  } finally {
    await programs.close();
  }
}

async function run({ seconds, seed, clients, pace, fleets, prompts, say }: ChaosOptions, programs: Programs): Promise<ChaosReport> {
  const tally = newTally();
  const violation = (rule: string, expected: unknown, seen: unknown, job = "") =>
    tally.violations.push({ job, rule, expected: JSON.stringify(expected), seen: JSON.stringify(seen), events: [] });
  const system = new System(programs, violation);
  const broken_off = new AbortController();
  try {
    const all = fleets(programs.folder);
    await system.start(all);
    const known = await learn(system, prompts, violation);
    const schedule = scheduleOf(
      new Random(seed),
      all.reduce((sum, { workers }) => sum + workers, 0),
      seconds,
      pace,
    );
    say(`seed ${seed}: ${schedule.length} faults in ${seconds} s, ${clients} clients, ${known.length} prompts`);
    const began = performance.now();
    const stopped = () => performance.now() - began > seconds * 1000;
    const following = Array.from({ length: clients }, (_, n) =>
      runClient({
        name: `c${n}`,
        system,
        dice: new Random(seed * 1000 + n + 1),
        prompts: known,
        tally,
        stopped,
        broken_off: broken_off.signal,
      }),
    );
    const faults = await inflictAll(system, schedule, began, programs, say, violation);
    say("peace: the clients follow their last jobs to the end");
    await Promise.all(following);
    await system.settled(({ workers, slots_busy, queued }) => {
      return queued === 0 && slots_busy === 0 && workers.every(({ jobs_running }) => jobs_running === 0);
    }, "nothing runs once every job has ended");
    await system.stop();
    const rows = checkLedger(join(system.data_dir, "orcd.sqlite"), system.content_key, tally, violation);
    return { tally, faults, summary: summary(seed, seconds, tally, rows, faults), violations: explained(tally.violations, programs) };
  } finally {
    broken_off.abort();
    system.close();
  }
}

/** Asks everything once while nothing is wrong. */
async function learn(system: System, prompts: readonly Prompt[], violation: Violated) {
  const known: { prompt: Prompt; truth: Truth }[] = [];
  for (const prompt of prompts) {
    let text = "";
    const ids: number[] = [];
    for await (const event of follow(await submit(system.url, { ...prompt.body, stream: true }))) {
      if (event.type === "token") {
        text += event.t;
        ids.push(...event.ids);
      }
      if (event.type !== "end") continue;
      const { tokens_in, tokens_out, stop_reason } = event;
      known.push({ prompt, truth: { text, ids, tokens_in, tokens_out, stop_reason } });
    }
    if (prompt.text !== undefined && prompt.text !== text) violation("a scripted model says its script", prompt.text, text);
  }
  return known;
}

/** All of the schedule; returns when the last fault is over. */
async function inflictAll(
  system: System,
  schedule: readonly Fault[],
  began: number,
  programs: Programs,
  say: (line: string) => void,
  violation: Violated,
) {
  const count = new Map<string, number>();
  const inflicted: Promise<void>[] = [];
  for (const fault of schedule) {
    await sleep(Math.max(0, fault.at_ms - (performance.now() - began)));
    programs.note(`FAULT ${describe(fault)}`);
    say(describe(fault));
    inflicted.push(
      system.inflict(fault).then(
        (done) => {
          if (done) count.set(fault.kind, (count.get(fault.kind) ?? 0) + 1);
          programs.note(`FAULT OVER ${describe(fault)}`);
        },
        (error: Error) => violation("what was ended starts again", describe(fault), error.message),
      ),
    );
  }
  await Promise.all(inflicted);
  return count;
}

function summary(seed: number, seconds: number, tally: Tally, rows: number, faults: ReadonlyMap<string, number>): string {
  const list = (counts: ReadonlyMap<string, number>) =>
    [...counts]
      .sort()
      .map(([name, count]) => `${name} ${count}`)
      .join(", ");
  const total = [...faults.values()].reduce((sum, each) => sum + each, 0);
  const { jobs, tokens, resumed, migrations, restarts, gone, unsure, ways, violations } = tally;
  return (
    `chaos: seed ${seed}, ${seconds} s, ${jobs} jobs (${list(ways)}), ${rows} rows, ${tokens} tokens checked, ` +
    `${resumed} resumptions, ${gone} read from the row, ${unsure} submissions unanswered, ` +
    `${total} faults (${list(faults)}), ${migrations} migrations, ${restarts} restarts, ${violations.length} violations`
  );
}

function explained(violations: readonly Violation[], programs: Programs): string[] {
  return violations.slice(0, VIOLATIONS_SHOWN).map(({ job, rule, expected, seen, events }) => {
    const lines = programs.lines(job, LOG_LINES_SHOWN);
    return [
      `✖ ${job === "" ? "the system" : `job ${job}`}: ${rule}`,
      `  expected: ${expected}`,
      `  seen:     ${seen}`,
      ...(events.length > 0 ? ["  events:", ...events.map((event) => `    ${event}`)] : []),
      ...(lines.length > 0 ? ["  log:", ...lines.map((line) => `    ${line}`)] : []),
    ].join("\n");
  });
}
