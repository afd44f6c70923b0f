/** What whoever comes while the orchestrator ends is told. */
import { RbeesError } from "@rbees/contracts/errors";

/** By then it is back, as a rule. */
const RETRY_AFTER_MS = 2000;

export function shuttingDown(): RbeesError {
  return new RbeesError("SHUTTING_DOWN", "The orchestrator is stopping; try again in a moment.", { retry_after_ms: RETRY_AFTER_MS });
}
