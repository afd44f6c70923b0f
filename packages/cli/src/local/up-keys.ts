/** The first key: an orchestrator that others can reach does not start without, so `rbees up` makes the one that this host needs. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { RbeesError } from "@rbees/contracts/errors";
import type { Home } from "@rbees/kit/home";
import { OPERATOR_KEY_FILE } from "@rbees/kit/key-file";
import type { Context } from "../context.ts";
import { apiKey } from "../orchestrator.ts";

/** The file with the key of this host; null when there is none. */
export function keyFile(home: Home): string | null {
  const path = join(home.config, OPERATOR_KEY_FILE);
  return existsSync(path) ? path : null;
}

/** Before the orchestrator starts: while it runs, nobody else opens its database. */
export async function ensureKey(context: Context): Promise<void> {
  if (apiKey(context) !== undefined) return;
  const path = join(context.home.config, OPERATOR_KEY_FILE);
  const [command = "", ...args] = context.programs.orcd;
  const asked = [...args, "keys", "create", "rbees-up", "--role=operate"];
  const { stdout } = await promisify(execFile)(command, asked, { env: { ...context.env } }).catch((error: { stderr?: string }) => {
    throw new RbeesError("CONFLICT", `No key could be made: ${(error.stderr ?? String(error)).trim()}`, { cause: error });
  });
  await mkdir(context.home.config, { recursive: true });
  await writeFile(path, stdout, { mode: 0o600, flag: "wx" });
  context.say(`Made a key for rbees here (role operate): ${path}`);
}
