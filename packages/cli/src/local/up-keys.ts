/** The first keys: an orchestrator that others can reach does not start without, so `rbees up` makes those that this host needs. */
import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { RbeesError } from "@rbees/contracts/errors";
import { OPERATOR_KEY_FILE, readKeyFile, WORKER_KEY_FILE } from "@rbees/kit/key-file";
import type { Context } from "../context.ts";
import { apiKey } from "../orchestrator.ts";

/** Before the orchestrator starts: while it runs, nobody else opens its database. */
export async function ensureKeys(context: Context): Promise<void> {
  const { config } = context.home;
  if (apiKey(context) === undefined) await make(context, "operate", join(config, OPERATOR_KEY_FILE), "rbees here");
  const worker_key = join(config, WORKER_KEY_FILE);
  if (readKeyFile(worker_key, false) === undefined) await make(context, "worker", worker_key, "workers here");
}

async function make(context: Context, role: string, path: string, whose: string): Promise<void> {
  const [command = "", ...args] = context.programs.orcd;
  const asked = [...args, "keys", "create", `rbees-up-${role}`, `--role=${role}`];
  const { stdout } = await promisify(execFile)(command, asked, { env: { ...context.env } }).catch((error: { stderr?: string }) => {
    throw new RbeesError("CONFLICT", `No key could be made: ${(error.stderr ?? String(error)).trim()}`, { cause: error });
  });
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, stdout, { mode: 0o600, flag: "wx" });
  context.say(`Made a key for ${whose} (role ${role}): ${path}`);
}
