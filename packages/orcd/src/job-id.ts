/** Job ids: `job_` and 26 characters of Crockford's base 32, ten of time and sixteen random, so that they sort by time. */
import { randomBytes } from "node:crypto";

const DIGITS = "0123456789abcdefghjkmnpqrstvwxyz";

export function mintJobId(now_ms: number): string {
  let time = "";
  for (let rest = now_ms, i = 0; i < 10; i += 1, rest = Math.floor(rest / 32)) time = DIGITS[rest % 32] + time;
  let random = "";
  for (const byte of randomBytes(16)) random += DIGITS[byte & 31];
  return `job_${time}${random}`;
}
