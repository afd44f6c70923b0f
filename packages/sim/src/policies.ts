/** The orchestrator's policies: whoever simulates them needs nothing else of the core. */
export { POLICIES, type PolicyName } from "@rbees/core/state";
