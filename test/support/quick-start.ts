/** What programs that a test starts in an environment of its own take along, so that they start as quickly as others (`scripts/test.ts`). */
import { environment } from "@rbees/kit/config";

export function quickStart(): Record<string, string> {
  const { NODE_COMPILE_CACHE, NODE_OPTIONS } = environment();
  return Object.fromEntries(
    Object.entries({ NODE_COMPILE_CACHE, NODE_OPTIONS }).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
