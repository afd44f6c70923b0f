/**
 * Whether a worker and an orchestrator of different versions go together. They run on different machines and are upgraded one after the
 * other (docs/upgrade.md). What they don't know of each other's words is not the same both ways: the orchestrator reads over it, since a
 * worker only tells it more; a worker refuses it, since without that it would answer something else than was asked.
 */
import { RbeesError } from "./errors.ts";

/**
 * Raise it whenever a field, or a further value of one, is added to what is sent to a worker (`Execute`, `Embed`, `Tokenize`) that an older
 * one would refuse and could be sent. What a job asks for is better made a feature (`FEATURES`): it goes only to workers that say that they
 * have it, and the number stays. Likewise when a worker is to say something that an older orchestrator must not read over.
 * 0, which is what whoever does not say speaks, is older than the first release.
 */
const PROTOCOL = 1;

export interface Spoken {
  readonly protocol: number;
  /** The lowest of the other side with which it can work. */
  readonly protocol_min: number;
}

/** `protocol_min` is raised, to the number from which workers know it, with what can't be left out for an older one. */
export const ORCHESTRATOR_SPEAKS: Spoken = { protocol: PROTOCOL, protocol_min: 0 };

/** `protocol_min` is raised with what an older orchestrator must not read over; mostly a worker serves any that is older. */
export const WORKER_SPEAKS: Spoken = { protocol: PROTOCOL, protocol_min: 0 };

type Worker = Spoken & { readonly id: string; readonly version: string };
type Orchestrator = Spoken & { readonly version: string };

/** Which of the two is too old for the other; undefined: they go together. */
export function tooOld(worker: Spoken, orchestrator: Spoken): "worker" | "orchestrator" | undefined {
  if (worker.protocol < orchestrator.protocol_min) return "worker";
  return orchestrator.protocol < worker.protocol_min ? "orchestrator" : undefined;
}

/** What the orchestrator answers a worker with which it can't work. Never final: either may be upgraded next. */
export function protocolMismatch(worker: Worker, orchestrator: Orchestrator): RbeesError | undefined {
  const upgrade = tooOld(worker, orchestrator);
  if (upgrade === undefined) return undefined;
  const they = `Worker ${worker.id} is rbees ${worker.version.slice(0, 64) || "of a version that it does not say"} (protocol ${worker.protocol}), the orchestrator rbees ${orchestrator.version} (protocol ${orchestrator.protocol})`;
  const message =
    upgrade === "worker"
      ? `${they}, which works with workers from protocol ${orchestrator.protocol_min} on: upgrade the worker.`
      : `${they}, and the worker needs one from protocol ${worker.protocol_min} on: upgrade the orchestrator.`;
  const spoken = ({ protocol, protocol_min }: Spoken) => ({ protocol, protocol_min });
  return new RbeesError("PROTOCOL_MISMATCH", message, {
    details: { upgrade, worker: spoken(worker), orchestrator: spoken(orchestrator) },
  });
}
