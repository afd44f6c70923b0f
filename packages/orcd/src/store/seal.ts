/** How a prompt or an answer lies in the database: AES-256-GCM with a fresh nonce, bound to the row and column that it is of. */
import { createCipheriv, createDecipheriv, type KeyObject, randomFillSync } from "node:crypto";

const CIPHER = "aes-256-gcm";
/** The first byte of what is sealed: another way to do it would begin with another. */
const FORM = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** Random bytes for nonces, each used once; asking the system for twelve at a time costs as much as sealing. */
const nonces = { bytes: Buffer.alloc(512 * NONCE_BYTES), used: 512 * NONCE_BYTES };

function writeNonce(target: Buffer, at: number): void {
  if (nonces.used === nonces.bytes.length) {
    randomFillSync(nonces.bytes);
    nonces.used = 0;
  }
  nonces.bytes.copy(target, at, nonces.used, nonces.used + NONCE_BYTES);
  nonces.used += NONCE_BYTES;
}

/** `bound_to`: opened elsewhere, it is no good. */
export function seal(key: KeyObject, content: string | Buffer, bound_to: string): Buffer {
  const head = Buffer.allocUnsafe(1 + NONCE_BYTES);
  head[0] = FORM;
  writeNonce(head, 1);
  const cipher = createCipheriv(CIPHER, key, head.subarray(1));
  cipher.setAAD(Buffer.from(bound_to));
  const body = typeof content === "string" ? cipher.update(content, "utf8") : cipher.update(content);
  cipher.final();
  return Buffer.concat([head, body, cipher.getAuthTag()]);
}

/** Undefined for what was not sealed with this key, or is bound to something else, or was changed. */
export function unseal(key: KeyObject, sealed: Uint8Array, bound_to: string): Buffer | undefined {
  if (sealed.length < 1 + NONCE_BYTES + TAG_BYTES || sealed[0] !== FORM) return undefined;
  const body_end = sealed.length - TAG_BYTES;
  try {
    const decipher = createDecipheriv(CIPHER, key, sealed.subarray(1, 1 + NONCE_BYTES));
    decipher.setAAD(Buffer.from(bound_to));
    decipher.setAuthTag(sealed.subarray(body_end));
    return Buffer.concat([decipher.update(sealed.subarray(1 + NONCE_BYTES, body_end)), decipher.final()]);
  } catch {
    return undefined;
  }
}
