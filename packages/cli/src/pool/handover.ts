/**
 * What a worker gets from its orchestrator's side before it starts: secrets, which travel on the stdin of `rbees-pool`, through SSH, and
 * in files that only their owner can read; never among the words of a command.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { JOIN_TOKEN } from "@rbees/contracts/join";
import { JOIN, OPERATOR_KEY_FILE, readSecretFile } from "@rbees/kit/key-file";
import { writePrivateFile } from "@rbees/kit/private-file";
import { CA_FILE, tlsFolder } from "@rbees/kit/tls";
import { workerFile, workerFolder } from "@rbees/kit/worker-files";
import { z } from "zod";
import type { Context } from "../context.ts";
import { readHandedOver } from "../handed-over.ts";
import { apiKey, KEY_VARIABLE, orchestratorAt } from "../orchestrator.ts";

const PEM_CHARS_MAX = 16_384;

export const Handover = z.strictObject({
  join_token: z.string().regex(JOIN_TOKEN).optional(),
  /** Whom it can trust, and the certificate of this host, which fits the key that it has made (`rbees-pool tls request`); PEM. */
  ca: z.string().max(PEM_CHARS_MAX).optional(),
  certificate: z.string().max(PEM_CHARS_MAX).optional(),
});
export type Handover = z.infer<typeof Handover>;

/** The line that `rbees pool … --host` wrote, or whoever called with `--handover`. */
export function readHandover(context: Context): Promise<Handover> {
  return readHandedOver(context, Handover, "handover");
}

export interface Invited {
  readonly pool: string | undefined;
  readonly worker_id: string | undefined;
  readonly address: string | undefined;
  readonly region: string | undefined;
}

/** What the orchestrator at this address has to give; nothing where it asks nobody. Undefined: it does not answer. */
export async function invitation(context: Context, url: string, whom: Invited): Promise<Handover | undefined> {
  const orchestrator = orchestratorAt(context, url);
  const health = await orchestrator.call("health", {}).catch((error) => {
    if (error instanceof RbeesError && error.code === "UNREACHABLE") return undefined;
    throw error;
  });
  if (health?.keys_required !== true) return health === undefined ? undefined : {};
  if (apiKey(context) === undefined) {
    throw new RbeesError(
      "UNAUTHORIZED",
      `The orchestrator at ${url} takes a worker only with a join token, and this host has no key to make one (${KEY_VARIABLE}, or ${OPERATOR_KEY_FILE} in the config folder). Spawn it from the operator's machine with \`rbees pool worker spawn --host\`; or make a token there with \`rbees workers invite\`, and name the file with it here: --token-file.`,
    );
  }
  return { join_token: (await orchestrator.call("inviteWorker", { body: whom })).token };
}

/** The flags with which the worker finds what it was given. `dropHandover` takes the files away once it has read them. */
export function keepHandover({ home }: Context, worker_id: string, { join_token, ca, certificate }: Handover): string[] {
  const folder = tlsFolder(home);
  if (ca !== undefined) writePrivateFile(join(folder, CA_FILE), ca);
  if (certificate !== undefined) writePrivateFile(join(folder, "worker.pem"), certificate);
  if (join_token === undefined) return [];
  const file = workerFile(workerFolder(home), worker_id, "join");
  writePrivateFile(file, `${join_token}\n`);
  return [`--join-token-file=${file}`];
}

export async function dropHandover({ home }: Context, worker_id: string): Promise<void> {
  await rm(workerFile(workerFolder(home), worker_id, "join"), { force: true });
}

export function joinTokenIn(file: string): string | undefined {
  return readSecretFile(file, true, JOIN);
}
