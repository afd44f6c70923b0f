/** A simulation as people read it: a row for each policy, and what it comes to. */
import type { Report } from "@rbees/sim/report";
import type { Look } from "../look.ts";
import { duration, plural } from "../look.ts";
import { table } from "../render/table.ts";
import type { Simulation } from "./simulate.ts";

/** Time beyond the last request, as a share of the trace, that says the machines fell behind. */
const BEHIND = 0.1;

export function renderSimulation(simulation: Simulation, look: Look): string {
  const { best, policies, slo } = simulation;
  const rows = table(
    policies,
    [
      { title: "POLICY", of: ({ policy }) => policy, name: true },
      { title: "TTFT", of: ({ ttft_s }) => seconds(ttft_s.mean), right: true },
      { title: "P50", of: ({ ttft_s }) => seconds(ttft_s.p50), right: true },
      { title: "P90", of: ({ ttft_s }) => seconds(ttft_s.p90), right: true },
      { title: "P99", of: ({ ttft_s }) => seconds(ttft_s.p99), right: true },
      { title: "TPOT", of: ({ tpot_ms }) => millis(tpot_ms.mean), right: true },
      { title: "P99", of: ({ tpot_ms }) => millis(tpot_ms.p99), right: true },
      { title: "HIT", of: ({ hit_percent }) => `${hit_percent.toFixed(1)} %`, right: true },
      { title: "GOOD", of: ({ goodput_percent }) => `${goodput_percent.toFixed(1)} %`, right: true },
      { title: "BUSY", of: ({ busy_percent: { min, max } }) => `${min.toFixed(0)}–${max.toFixed(0)} %`, right: true },
      { title: "QUEUE P99", of: ({ queue_s }) => seconds(queue_s.p99), right: true },
      { title: "FAIR", of: ({ fairness }) => fairness.toFixed(3), right: true },
      ...(policies.some(({ tenants }) => tenants.count > 1)
        ? [{ title: "GAP", of: ({ tenants }: Report) => kilo(tenants.gap_tokens), right: true as const }]
        : []),
      { title: "", of: ({ policy }) => (policy === best && !allAlike(policies) ? "← first token soonest" : "") },
    ],
    look,
    "",
  );
  const legend =
    `TTFT: until the first token. TPOT: from token to token. HIT: prompt tokens that were kept. ` +
    `GOOD: began within ${duration(slo.ttft_ms)} and needed at most ${duration(slo.tpot_ms)} a token.${gapLegend(policies)}`;
  return `${rows}\n${look.dim(legend)}\n${sentences(simulation).join(" ")}\n`;
}

function sentences({ best, policies, trace, fleet }: Simulation): string[] {
  const first = policies.find(({ policy }) => policy === best) as Report;
  const other = allAlike(policies) ? undefined : against(policies, first);
  const on = `${plural(trace.requests, "request")} on ${plural(fleet.length, "machine")}`;
  const told = [
    other === undefined
      ? `${on}: with ${policies.length === 1 ? best : "any policy"} the first token comes after ${seconds(first.ttft_s.mean)} in the mean.`
      : `${on}: ${best} answers first, mean ${seconds(first.ttft_s.mean)} against ${seconds(other.ttft_s.mean)} with ${other.policy}.`,
  ];
  const late_s = first.makespan_s - trace.duration_s;
  if (trace.duration_s > 0 && late_s > BEHIND * trace.duration_s && late_s > 60) {
    told.push(
      `The machines can't keep up: the last answer ends ${duration(1000 * late_s)} after the last request. Try more machines, or a lower --rate.`,
    );
  }
  return told;
}

/** On one machine, for instance, there is nothing to choose. */
function allAlike(policies: readonly Report[]): boolean {
  return policies.every(({ ttft_s }) => ttft_s.mean === policies[0]?.ttft_s.mean);
}

/** Round-robin is what one would do without thinking; where it was not asked for, the worst of the others. */
function against(policies: readonly Report[], best: Report): Report | undefined {
  const others = policies.filter((one) => one !== best);
  const worst = others.toSorted((a, b) => b.ttft_s.mean - a.ttft_s.mean)[0];
  return others.find(({ policy }) => policy === "round-robin") ?? worst;
}

function seconds(value: number): string {
  return `${value < 100 ? value.toFixed(2) : value.toFixed(0)} s`;
}

function millis(value: number): string {
  return `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

function gapLegend([one]: readonly Report[]): string {
  if (one === undefined || one.tenants.count < 2) return "";
  return ` GAP: by how many tokens two of the ${one.tenants.count} tenants were apart at most while both waited; it can't be more than ${kilo(one.tenants.bound_tokens)}.`;
}

function kilo(tokens: number): string {
  return tokens < 10_000 ? String(tokens) : `${Math.round(tokens / 1000).toLocaleString("en-US")} k`;
}
