/** The key that signs the heads of the audit trail: a file outside the database, made at the first start, its public half beside it. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, parse } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { readPrivateFile } from "@rbees/kit/private-file";

/** The private key in `file`, as PEM. */
export function auditKeyIn(file: string): string {
  const pem = existing(file) ?? made(file);
  const key = privateKey(file, pem);
  writeFileSync(publicFileOf(file), createPublicKey(key).export({ type: "spki", format: "pem" }));
  return pem;
}

/** `audit-key.pub.pem` beside `audit-key.pem`. */
function publicFileOf(file: string): string {
  const { dir, name } = parse(file);
  return join(dir, `${name}.pub.pem`);
}

function existing(file: string): string | undefined {
  const found = readPrivateFile(file);
  if (found?.open_to_others === true)
    throw new RbeesError("CONFLICT", `Others may read or write ${file}, and so could sign the audit trail. If nobody has, chmod 600 it.`);
  return found?.text;
}

function made(file: string): string {
  mkdirSync(dirname(file), { recursive: true });
  const pem = generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  // An orchestrator with another database may start at the same time, and has the same key then.
  try {
    writeFileSync(file, pem, { mode: 0o600, flag: "wx", flush: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    return readFileSync(file, "utf8");
  }
  chmodSync(file, 0o600);
  return pem;
}

function privateKey(file: string, pem: string): KeyObject {
  try {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType === "ed25519") return key;
  } catch {}
  throw new RbeesError(
    "CONFLICT",
    `${file} holds no Ed25519 key in PEM. Restore it; or move it away, and a new key is made that signs from now on.`,
  );
}
