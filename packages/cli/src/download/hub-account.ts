/**
 * Which hub, and who asks there. What the operator's own environment says of it goes along to the machine that downloads: a line on the
 * stdin of its `rbees-pool`, since a token must not stand among the words of a command. It wins over what that machine has of its own.
 */
import type { Environment } from "@rbees/kit/config";
import { z } from "zod";
import type { Context } from "../context.ts";
import { readHandedOver } from "../handed-over.ts";
import type { Errand } from "../verb.ts";

const CHARS_MAX = 4096;

const HubAccount = z.strictObject({ HF_ENDPOINT: z.string().max(CHARS_MAX).optional(), HF_TOKEN: z.string().max(CHARS_MAX).optional() });

/** The flag that tells the far side to read it. */
const FLAG = "--hub-account";

/** A word and a line for the far side; nothing where the environment says nothing. */
export function hubAccount(env: Environment): { flags: string[]; handover: string | undefined } {
  const account: z.infer<typeof HubAccount> = {};
  for (const name of HubAccount.keyof().options) if (env[name]) account[name] = env[name];
  return Object.keys(account).length === 0 ? { flags: [], handover: undefined } : { flags: [FLAG], handover: JSON.stringify(account) };
}

export function withHubAccount({ env }: Context, errand: Errand): Errand {
  const { flags, handover } = hubAccount(env);
  return { ...errand, flags: [...errand.flags, ...flags.map((flag) => [flag, undefined] as const)], handover };
}

/** On the far side: as if its environment had said so. */
export async function withHubFromStdin(context: Context): Promise<Context> {
  const account = await readHandedOver(context, HubAccount, "hub account");
  return { ...context, env: { ...context.env, ...account } };
}
