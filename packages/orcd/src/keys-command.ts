/**
 * `rbees-orcd keys …`: the same as `rbees keys …`, on the database itself, while no orchestrator runs on it: for the first key, and
 * for when no key that may make keys is left.
 */
import { RbeesError } from "@rbees/contracts/errors";
import { CreateKey, type KeyView, type NewKey, type Role } from "@rbees/contracts/key";
import { ROLES } from "@rbees/contracts/sets";
import { number, text } from "@rbees/kit/config";
import { Keyring } from "./keyring.ts";
import { DatabaseHeld, databaseIn, openStore } from "./store/open.ts";

export const keySettings = {
  role: text<string>({ default: "", help: `Of \`keys create\`: ${ROLES.join(", ")}, joined by commas` }),
  expires_days: number({ default: 0, max: 3650, whole: false, help: "Of `keys create`: how long the key lasts; 0: until it is revoked" }),
} as const;

const DAY_MS = 86_400_000;

interface Asked {
  readonly role: string;
  readonly expires_days: number;
  readonly data_dir: string;
}

/** What goes to stdout. Of a new key nothing but the key, so that it can be written to a file or a variable. */
export async function keysCommand([verb, subject, ...more]: readonly string[], asked: Asked): Promise<string> {
  const list = verb === "list" && subject === undefined;
  const one = subject !== undefined && more.length === 0 && ["create", "rotate", "revoke"].includes(verb ?? "");
  if (!list && !one) {
    throw new RbeesError(
      "INVALID_REQUEST",
      "Say `rbees-orcd keys create NAME --role ROLE`, `keys list`, `keys rotate ID` or `keys revoke ID`.",
    );
  }
  const wish = verb === "create" ? wishOf(subject ?? "", asked) : undefined;
  const store = await openStore(databaseIn(asked.data_dir)).catch((error) => {
    throw error instanceof DatabaseHeld ? runs(asked.data_dir, verb ?? "") : error;
  });
  try {
    const keys = await Keyring.open(store);
    if (wish !== undefined) return only(await keys.create(wish, undefined));
    if (subject === undefined) return keys.list().map(line).join("");
    return verb === "rotate" ? only(await keys.rotate(subject, { overlap_ms: 0 }, undefined)) : line(await keys.revoke(subject, undefined));
  } finally {
    await store.close();
  }
}

function wishOf(name: string, { role, expires_days }: Asked): CreateKey {
  const roles = role.split(",").filter((part) => part !== "") as Role[];
  const parsed = CreateKey.safeParse({ name, roles, ...(expires_days === 0 ? {} : { expires_in_ms: Math.round(expires_days * DAY_MS) }) });
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => (path[0] === "roles" ? `--role takes ${ROLES.join(", ")}` : message));
  throw new RbeesError("INVALID_REQUEST", `No key was made: ${[...new Set(problems)].join("; ")}.`);
}

function runs(data_dir: string, verb: string): RbeesError {
  return new RbeesError(
    "CONFLICT",
    `The orchestrator of ${data_dir} runs, and holds its database: ask it with \`rbees keys ${verb}\`, or stop it first.`,
  );
}

function only({ key }: NewKey): string {
  return `${key}\n`;
}

function line({ key_id, name, roles, status, expires_at }: KeyView): string {
  return `${[key_id, name, roles.join(","), status, ...(expires_at === null ? [] : [`until ${expires_at}`])].join("  ")}\n`;
}
