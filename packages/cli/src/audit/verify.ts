/** `rbees audit verify`: reads a trail from end to end and says whether it is whole, and where not. */
import { ChainCheck, type Verdict } from "@rbees/kit/audit-check";
import type { Context } from "../context.ts";
import { type Look, plural } from "../look.ts";
import type { Trail } from "./trail.ts";

export interface Verification extends Verdict {
  readonly file: string;
  readonly kind: Trail["kind"];
  readonly whole: boolean;
}

export async function verifyTrail(context: Context, trail: Trail, { part }: { part: boolean }): Promise<Verification> {
  const check = new ChainCheck({ part });
  let seen = 0;
  for await (const items of trail.items()) {
    context.signal.throwIfAborted();
    for (const item of items) {
      if ("entry" in item) check.take(item.entry, item.where);
      else check.unreadable(item.where, item.unreadable);
    }
    seen += items.length;
    if (context.io.err_look.tty) context.progress(`verifying ${trail.file}`, `${seen} entries`);
  }
  const verdict = check.end();
  return { file: trail.file, kind: trail.kind, whole: verdict.problem_count === 0, ...verdict };
}

export function renderVerification({ file, entries, first_seq, last_seq, problems, problem_count }: Verification, look: Look): string {
  const lines = problems.map(({ where, message }) => `${look.bad(where)}: ${look.safe(message)}`);
  if (problem_count > problems.length) lines.push(look.dim(`… and ${problem_count - problems.length} more`));
  const count = entries === 1 ? "1 entry" : `${entries} entries`;
  const range = first_seq === null ? count : `${count}, ${first_seq} to ${last_seq}`;
  lines.push(
    problem_count === 0
      ? `${file} is whole: ${range}; nothing was changed, left out or moved between them.`
      : `${look.bad(`${file} is not whole`)}: ${plural(problem_count, "problem")} in ${range}.`,
  );
  return `${lines.join("\n")}\n`;
}
