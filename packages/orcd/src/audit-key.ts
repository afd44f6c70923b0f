/** The key that signs the heads of the audit trail: a file outside the database, made at the first start, its public half beside it. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join, parse } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { madeKey } from "./made-key.ts";

/** The private key in `file`, as PEM. */
export function auditKeyIn(file: string): string {
  const pem = madeKey(file, newPem, "sign the audit trail");
  const key = privateKey(file, pem);
  writeFileSync(publicFileOf(file), createPublicKey(key).export({ type: "spki", format: "pem" }));
  return pem;
}

/** `audit-key.pub.pem` beside `audit-key.pem`. */
function publicFileOf(file: string): string {
  const { dir, name } = parse(file);
  return join(dir, `${name}.pub.pem`);
}

function newPem(): string {
  return generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }).toString();
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
