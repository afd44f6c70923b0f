/** Audit entries chained in a row, and the same records only written as JSON and hashed, in turn; prints the time each took. */
import { hash } from "node:crypto";
import { type AuditEntry, chain, GENESIS } from "@rbees/kit/audit-chain";
import { acceptedEntry } from "./accepted-job.ts";

const ENTRIES = 50_000;
const ROUNDS = 7;

/** Microseconds an entry. */
function timed(append: (entry: AuditEntry, seq: number, previous: string) => string): number {
  let previous = GENESIS;
  const began = process.cpuUsage();
  for (let n = 1; n <= ENTRIES; n += 1) previous = append(acceptedEntry(n), n, previous);
  const { user, system } = process.cpuUsage(began);
  return (user + system) / ENTRIES;
}

const chained = () => timed((next, seq, previous) => chain(next, seq, previous).hash);
const plain = () =>
  timed(({ at_ms, kind, fields }, seq, previous) =>
    hash("sha256", `${previous}\n${JSON.stringify({ ...fields, seq, at: new Date(at_ms).toISOString(), kind })}`, "hex"),
  );

const took: [number[], number[]] = [[], []];
for (let round = 0; round <= ROUNDS; round += 1) {
  const both: [number, number] = [chained(), plain()];
  // The first round is V8's.
  if (round > 0) for (const [which, us] of both.entries()) took[which]?.push(us);
}
process.stdout.write(
  `chained_us ${took[0].map((us) => us.toFixed(3)).join(" ")}\nplain_us ${took[1].map((us) => us.toFixed(3)).join(" ")}\n`,
);
