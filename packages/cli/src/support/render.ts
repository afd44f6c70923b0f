/** Which model ran where, as people read it. */
import { duration, type Look, rate, size } from "../look.ts";
import { table } from "../render/table.ts";
import type { PoolResult } from "./result.ts";

export function renderSupport(results: readonly PoolResult[], look: Look): string {
  const rows = table(
    results,
    [
      { title: "MODEL", of: ({ model }) => model, name: true },
      { title: "POOL", of: ({ pool }) => pool },
      { title: "BACKEND", of: ({ backend }) => backend },
      { title: "RESULT", of: ({ outcome }) => outcome },
      { title: "TOKENS/S", of: ({ figures }) => rate(figures?.tokens_per_second), right: true },
      { title: "LOAD", of: ({ figures }) => (figures === null ? "–" : duration(figures.load_ms)), right: true },
      { title: "MEMORY", of: ({ figures }) => size(figures?.memory_bytes), right: true },
      { title: "WHY", of: ({ reason }) => reason?.split("\n")[0] ?? "" },
    ],
    look,
    "Nothing to test.",
  );
  const counted = (["passed", "failed", "skipped"] as const).map(
    (outcome) => `${results.filter((result) => result.outcome === outcome).length} ${outcome}`,
  );
  return `${rows}${counted.join(", ")}\n`;
}
