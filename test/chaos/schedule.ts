/** What goes wrong and when: drawn from the seed alone, so that the same seed gives the same schedule. */
import type { Random } from "../support/random.ts";

/** Faults of a worker or of the link to it, with how likely each is. */
const WORKER_FAULTS = {
  "worker-kill": 3,
  "worker-stop": 1,
  "worker-freeze": 4,
  "worker-freeze-kill": 1,
  "worker-replaced": 1,
  "engine-kill": 1,
  "link-half-open": 4,
  "link-throttle": 3,
  "link-delay": 3,
  "link-reset": 4,
  "link-down": 1,
} as const;
const ORCD_FAULTS = { "orcd-kill": 5, "orcd-stop": 2, "orcd-freeze": 1 } as const;

export type FaultKind = keyof typeof WORKER_FAULTS | keyof typeof ORCD_FAULTS;

/** Which of the two connections: that of the attempts, or that on which the worker registers and reports. */
const LINKS = ["execute", "register", "both"] as const;

export interface Fault {
  readonly at_ms: number;
  readonly kind: FaultKind;
  /** The worker, counted from 0; none for a fault of the orchestrator. */
  readonly worker: number | undefined;
  /** How long it lasts, or how long the program is away. */
  readonly for_ms: number;
  readonly link: (typeof LINKS)[number];
  /** Bytes a second of a throttled link. */
  readonly bytes_per_s: number;
  readonly delay_ms: number;
}

export interface Pace {
  readonly first_ms: number;
  /** Between two faults of workers, and between two of the orchestrator. */
  readonly worker_ms: readonly [number, number];
  readonly orcd_ms: readonly [number, number];
  /** How long a program is frozen or a link bad. */
  readonly for_ms: readonly [number, number];
  /** How long a program is away before it is started again. */
  readonly away_ms: readonly [number, number];
}

/** What starting a program again may take; a worker is left alone for so long after its fault. */
const RECOVERY_MS = 4000;

export function scheduleOf(dice: Random, workers: number, seconds: number, pace: Pace): Fault[] {
  const until_ms = seconds * 1000;
  const faults: Fault[] = [];
  const free_at = Array.from({ length: workers }, () => 0);
  for (let at_ms = pace.first_ms; at_ms < until_ms; at_ms += dice.from(...pace.worker_ms)) {
    const free = free_at.flatMap((when, worker) => (when <= at_ms ? [worker] : []));
    const fault = faultOf(dice, at_ms, dice.weighted(WORKER_FAULTS), free.length === 0 ? 0 : dice.pick(free), pace);
    if (free.length === 0) continue;
    free_at[fault.worker as number] = at_ms + fault.for_ms + (fault.kind.startsWith("link") ? 0 : RECOVERY_MS);
    faults.push(fault);
  }
  for (let at_ms = pace.first_ms + dice.from(...pace.orcd_ms); at_ms < until_ms; at_ms += dice.from(...pace.orcd_ms))
    faults.push(faultOf(dice, at_ms, dice.weighted(ORCD_FAULTS), undefined, pace));
  return faults.sort((a, b) => a.at_ms - b.at_ms);
}

function faultOf(dice: Random, at_ms: number, kind: FaultKind, worker: number | undefined, pace: Pace): Fault {
  const lasts = kind !== "link-reset" && kind !== "engine-kill";
  const away = ["worker-kill", "worker-stop", "orcd-kill", "orcd-stop"].includes(kind);
  const for_ms = lasts ? dice.from(...(away ? pace.away_ms : pace.for_ms)) : 0;
  return { at_ms, kind, worker, for_ms, link: dice.pick(LINKS), bytes_per_s: dice.from(400, 6000), delay_ms: dice.from(20, 250) };
}

export function describe({ at_ms, kind, worker, for_ms, link, bytes_per_s, delay_ms }: Fault): string {
  const more = kind === "link-throttle" ? ` ${bytes_per_s} bytes/s` : kind === "link-delay" ? ` ${delay_ms} ms` : "";
  const where = worker === undefined ? "" : ` w${worker}${kind.startsWith("link") ? ` (${link})` : ""}`;
  return `${(at_ms / 1000).toFixed(1)} s: ${kind}${where}${more}${for_ms > 0 ? `, ${for_ms} ms` : ""}`;
}
