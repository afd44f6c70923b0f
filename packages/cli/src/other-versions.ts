import type { WorkerList, WorkerView } from "@rbees/contracts/worker";

/** The workers of another version than the orchestrator, as far as both say theirs. */
export function ofOtherVersions({ workers, orchestrator_version: here }: WorkerList): WorkerView[] {
  return here === undefined ? [] : workers.filter(({ version }) => version !== "" && version !== here);
}
