/** `npm run fuzz:api`: ten thousand requests that are nearly good; each is answered or refused within a second, and none breaks anything. */
import { parseArgs } from "node:util";
import { fuzzApi } from "./fuzz-api.ts";

const HELP = `fuzz:api: an orchestrator gets requests with changed fields, types, sizes, encodings and bytes.

  --count N      how many (default 10000)
  --seed N       the requests of an earlier run again (default: new ones)
  --answer-ms N  how long an answer may take (default 1000); more on a machine that has much else to do
`;
const GROWN_BYTES_MAX = 16 * 1024 * 1024;

async function main(argv: readonly string[]): Promise<number> {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    args: [...argv],
    options: { count: text, seed: text, "answer-ms": text, help: { type: "boolean", short: "h" } },
  });
  const count = Number(values.count ?? 10_000);
  const seed = Number(values.seed ?? Math.floor(Math.random() * 1_000_000));
  const answer_ms_max = Number(values["answer-ms"] ?? 1000);
  if (values.help === true || !(count > 0) || !(answer_ms_max > 0) || !Number.isSafeInteger(seed)) {
    process.stdout.write(HELP);
    return values.help === true ? 0 : 2;
  }
  const closing: (() => unknown)[] = [];
  const report = await fuzzApi(
    { after: (done) => void closing.push(done) },
    { count, seed, answer_ms_max, say: (progress) => process.stderr.write(`${progress}\n`) },
  );
  for (const done of closing) await done();
  const { violations, statuses, slowest_ms, grown_bytes } = report;
  if (grown_bytes > GROWN_BYTES_MAX) violations.push(`memory grew by ${grown_bytes} bytes`);
  const counts = [...statuses].sort(([a], [b]) => a - b).map(([status, n]) => `${n} × ${status}`);
  const figures = `slowest answer ${Math.round(slowest_ms)} ms, memory ${(grown_bytes / 1024 / 1024).toFixed(1)} MiB more than after a fifth of them`;
  process.stdout.write(`${count} requests (--seed ${seed}): ${counts.join(", ")}; ${figures}; ${violations.length} violations\n`);
  return violations.length > 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
