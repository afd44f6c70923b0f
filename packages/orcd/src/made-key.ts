/** Keys that the orchestrator makes for itself at its first start: files that only their owner may read. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { readPrivateFile } from "@rbees/kit/private-file";

/** What is in `file`; made when there is none. `could`: what somebody who has read it could do. */
export function madeKey(file: string, make: () => string, could: string): string {
  const found = readPrivateFile(file);
  if (found?.open_to_others === true)
    throw new RbeesError("CONFLICT", `Others may read or write ${file}, and so could ${could}. If nobody has, chmod 600 it.`);
  if (found !== undefined) return found.text;
  mkdirSync(dirname(file), { recursive: true });
  const made = make();
  // An orchestrator with another database may start at the same time, and has the same key then.
  try {
    writeFileSync(file, made, { mode: 0o600, flag: "wx", flush: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    return readFileSync(file, "utf8");
  }
  chmodSync(file, 0o600);
  return made;
}
