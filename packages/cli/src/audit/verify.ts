/** `rbees audit verify`: reads a trail from end to end and says whether it is whole, and where not. */
import { RbeesError } from "@rbees/contracts/errors";
import { recordOf } from "@rbees/kit/audit-chain";
import { ChainCheck, type CheckOptions, type FoundEntry, type Verdict } from "@rbees/kit/audit-check";
import type { Context } from "../context.ts";
import { type Look, plural } from "../look.ts";
import { CUT_OFF, type Trail } from "./trail.ts";

/** The entry that a subject was erased. */
export const ERASED = "subject.erased";

export interface Verification extends Verdict {
  readonly file: string;
  readonly kind: Trail["kind"];
  readonly whole: boolean;
  readonly signatures: "checked" | "not_checked";
  /** Subjects that were erased, as the trail says, and the jobs and lines of files that they had. */
  readonly erased: { readonly subjects: number; readonly jobs: number; readonly lines: number };
}

export async function verifyTrail(context: Context, trail: Trail, options: CheckOptions): Promise<Verification> {
  const check = new ChainCheck(options);
  let seen = 0;
  let strange = 0;
  const erased = { subjects: 0, jobs: 0, lines: 0 };
  for await (const items of trail.items()) {
    context.signal.throwIfAborted();
    for (const item of items) {
      if ("entry" in item) {
        check.take(item.entry, item.where);
        const with_it = erasedBy(item.entry);
        if (with_it === undefined) continue;
        erased.subjects += 1;
        erased.jobs += with_it.jobs;
        erased.lines += with_it.lines;
      } else {
        check.unreadable(item.where, item.unreadable);
        if (item.unreadable !== CUT_OFF) strange += 1;
      }
    }
    seen += items.length;
    if (context.io.err_look.tty) context.progress(`verifying ${trail.file}`, `${seen} entries`);
  }
  const verdict = check.end();
  // Where nothing at all is an entry, what is wrong with each line is not the news.
  if (trail.kind === "export" && strange > 0 && verdict.entries === 0)
    throw new RbeesError(
      "INVALID_REQUEST",
      `${trail.file} is no export of an audit trail: it has ${plural(seen, "line")} and no entry. Give a file of \`rbees audit export\` (NDJSON), or the database (orcd.sqlite).`,
    );
  const signatures = options.keys === undefined ? "not_checked" : "checked";
  return { file: trail.file, kind: trail.kind, whole: verdict.problem_count === 0, signatures, erased, ...verdict };
}

/** How many jobs' prompts and answers and lines of files went with a subject; undefined of any other entry. */
function erasedBy(entry: FoundEntry): { jobs: number; lines: number } | undefined {
  // The quick look first: hardly any entry is one.
  if (!entry.record.includes(ERASED)) return undefined;
  const record = recordOf(entry);
  return record?.kind === ERASED ? { jobs: Number(record["jobs"]), lines: Number(record["lines"] ?? 0) } : undefined;
}

export function renderVerification(verification: Verification, look: Look): string {
  const { file, entries, first_seq, last_seq, problems, problem_count, erased, expired_until } = verification;
  const lines = problems.map(({ where, message }) => `${look.bad(where)}: ${look.safe(message)}`);
  if (problem_count > problems.length) lines.push(look.dim(`… and ${problem_count - problems.length} more`));
  const count = plural(entries, "entry", "entries");
  const range = first_seq === null ? count : `${count}, ${first_seq} to ${last_seq}`;
  lines.push(
    problem_count === 0
      ? `${file} is whole: ${range}; nothing was changed, left out or moved between them.`
      : `${look.bad(`${file} is not whole`)}: ${plural(problem_count, "problem")} in ${range}.`,
  );
  if (expired_until > 0) lines.push(look.dim(`Entries 1 to ${expired_until} have expired; the head after them vouches for them.`));
  if (erased.subjects > 0) lines.push(look.dim(erasedSentence(erased)));
  if (problem_count === 0) lines.push(look.dim(signatureSentence(verification)));
  return `${lines.join("\n")}\n`;
}

function erasedSentence({ subjects, jobs, lines }: Verification["erased"]): string {
  const of_files = lines === 0 ? "" : ` and ${plural(lines, "line")} of files`;
  return `${plural(subjects, "subject was", "subjects were")} erased, with the prompts and answers of ${plural(jobs, "job")}${of_files}; their entries are here.`;
}

function signatureSentence({ signatures, signed, last_seq }: Verification): string {
  if (signatures === "not_checked" || signed === null || last_seq === null)
    return "Signatures were not checked: --public-key FILE does that.";
  const after = last_seq - signed.seq;
  const rest =
    after === 0
      ? "to its end"
      : `up to entry ${signed.seq}; ${after === 1 ? "the entry" : `the ${after} entries`} after it ${after === 1 ? "is" : "are"} not signed yet`;
  return `It is signed ${rest}. The last signature is of ${signed.at}.`;
}
