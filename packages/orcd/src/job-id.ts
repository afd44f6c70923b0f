/** Job ids: `job_` and 26 characters of Crockford's base 32, ten of time and sixteen random, so that they sort by time. */
import { randomBytes } from "node:crypto";

const DIGITS = "0123456789abcdefghjkmnpqrstvwxyz";
const RANDOM_CHARS = 16;

/** Random bytes are fetched for many ids at once: a call into the system costs more than the rest of an id. */
const random = { bytes: Buffer.alloc(0), used: 0 };
const time = { ms: -1, digits: "" };

export function mintJobId(now_ms: number): string {
  return `job_${mintId(now_ms)}`;
}

/** The 26 characters, for ids of other things too. */
export function mintId(now_ms: number): string {
  if (now_ms !== time.ms) {
    time.ms = now_ms;
    time.digits = "";
    for (let rest = now_ms, i = 0; i < 10; i += 1, rest = Math.floor(rest / 32)) time.digits = DIGITS[rest % 32] + time.digits;
  }
  if (random.used + RANDOM_CHARS > random.bytes.length) {
    random.bytes = randomBytes(256 * RANDOM_CHARS);
    for (const [at, byte] of random.bytes.entries()) random.bytes[at] = DIGITS.charCodeAt(byte & 31);
    random.used = 0;
  }
  random.used += RANDOM_CHARS;
  return `${time.digits}${random.bytes.toString("latin1", random.used - RANDOM_CHARS, random.used)}`;
}
