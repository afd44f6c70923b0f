/** The machines of a pool, as people read them. */
import { duration, type Look, plural, size } from "../look.ts";
import type { Installed } from "../remote/install.ts";
import type { PoolLine } from "../remote/overview.ts";
import { address, type Pool } from "../remote/pools.ts";
import type { Registered } from "../remote/register.ts";
import { table } from "./table.ts";

const NO_POOLS = "No pools. Register a machine: rbees pool register NAME --host HOST";

export function renderOverview({ pools }: { pools: readonly PoolLine[] }, look: Look): string {
  const rows = table(
    pools,
    [
      { title: "POOL", of: ({ name }) => name, name: true },
      { title: "HOST", of: ({ host }) => host },
      {
        title: "WORKERS",
        of: ({ status }) =>
          status === null ? "–" : `${status.workers.filter((one) => one.status === "ready").length}/${status.workers.length}`,
        right: true,
      },
      { title: "MODELS", of: ({ status }) => String(status?.models.length ?? "–"), right: true, spare: 3 },
      { title: "CPU", of: ({ status }) => (status === null ? "–" : plural(status.cpu.cores, "core")), right: true, spare: 4 },
      { title: "MEMORY FREE", of: ({ status }) => size(status?.memory.available_bytes), right: true, spare: 1 },
      { title: "DISK FREE", of: ({ status }) => size(status?.disk.available_bytes), right: true, spare: 2 },
      {
        title: "BACKENDS",
        of: ({ status }) =>
          status?.backends
            .filter(({ works }) => works)
            .map(({ backend }) => backend)
            .join(", ") || "–",
        spare: 5,
      },
      { title: "HOW IT IS", of: ({ problem }) => (problem === null ? "answers" : "see below") },
    ],
    look,
    NO_POOLS,
  );
  // In full, and below: with what to do they are too long for a row.
  const problems = pools.flatMap(({ name, problem }) => (problem === null ? [] : [`${look.bad(name)}: ${look.safe(problem)}\n`]));
  return `${rows}${problems.join("")}`;
}

export function renderRegistered({ name, pool, ready, checks }: Registered, look: Look): string {
  const rows = table(
    checks,
    [
      { title: "", of: ({ ok, wrong }) => (ok ? "ok" : (wrong ?? "missing")) },
      { title: "", of: (check) => check.name, name: true },
      { title: "", of: ({ found }) => found },
    ],
    look,
    "",
  ).replace(/^.*\n/, "");
  const steps = checks.flatMap(({ next }) => next ?? []);
  const next = ready ? `Next: rbees pool worker spawn cpu --model demo --host ${name}` : `Next: ${steps[0] ?? "see above"}`;
  return `${name} is ${address(pool)}\n${rows}${next}\n`;
}

export function renderPools({ pools }: { pools: readonly (Pool & { name: string })[] }, look: Look): string {
  return table(
    pools,
    [
      { title: "POOL", of: ({ name }) => name, name: true },
      { title: "HOST", of: address },
      { title: "REGISTERED", of: ({ registered_at }) => registered_at.slice(0, 10) },
    ],
    look,
    NO_POOLS,
  );
}

export function renderInstalled({ host, version, node, platform, sent_bytes, unpacked_bytes, ms, backends }: Installed): string {
  const moved = sent_bytes === null ? "was there already" : `${size(sent_bytes)} sent, ${size(unpacked_bytes)} there`;
  const works = backends.length === 0 ? "no backend works there" : `works on ${backends.join(", ")}`;
  return `rbees ${version} is on ${host}: ${platform}, Node.js ${node}, ${moved}, ${works}, ${duration(ms)}.
Workers that run there go on with the version that they began with.
Next: rbees pool worker spawn cpu --model demo --host ${host}
`;
}
