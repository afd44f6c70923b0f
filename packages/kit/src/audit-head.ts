/**
 * Signed heads: entries of the audit trail in which the orchestrator signs, with Ed25519, the hash of the entry before and what the
 * head itself says. A chain alone can be written anew by whoever can write; a head of it can't.
 */
import { createHash, createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { type AuditEntry, type AuditRecord, type ChainedEntry, canonicalJson, chain, type SealedEntry } from "./audit-chain.ts";

export const HEAD = "head.signed";
/** The entry that what was before a head has expired: it names the head, with which the trail begins from then on. */
export const EXPIRED = "trail.expired";

/** The entry that signs all before it. `key` is the private one. */
export function headEntry(at_ms: number, seq: number, previous: string, key: KeyObject): ChainedEntry {
  const unsigned: AuditEntry = { at_ms, kind: HEAD, fields: { key: keyId(key) } };
  const signature = sign(null, Buffer.from(`${previous}\n${chain(unsigned, seq, previous).record}`), key).toString("hex");
  return chain({ ...unsigned, fields: { ...unsigned.fields, signature } }, seq, previous);
}

/** Whether the head was signed with the private key that belongs to `key`. */
export function isSignedBy(key: KeyObject, { previous }: Pick<SealedEntry, "previous">, { signature, ...said }: AuditRecord): boolean {
  if (typeof signature !== "string" || !/^[0-9a-f]{128}$/.test(signature)) return false;
  return verify(null, Buffer.from(`${previous}\n${canonicalJson(said)}`), key, Buffer.from(signature, "hex"));
}

/** By what name a head calls its key, private or public: the SHA-256 of the public one as DER. */
export function keyId(key: KeyObject): string {
  const open = key.type === "private" ? createPublicKey(key) : key;
  return createHash("sha256")
    .update(open.export({ type: "spki", format: "der" }))
    .digest("hex");
}
