/** What `rbees doctor` found, as people read it. */
import type { Diagnosis } from "../local/doctor.ts";
import { type Look, plural } from "../look.ts";

export function renderDiagnosis({ checks }: Diagnosis, look: Look): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const levels = { ok: look.accent("ok  "), warn: look.bold("warn"), fail: look.bad("fail") };
  const lines = checks.map(({ name, level, found, next }) => {
    const line = `${levels[level]}  ${name.padEnd(width)}  ${look.dim(found)}`;
    return next === undefined ? line : `${line}\n${" ".repeat(width + 8)}→ ${next}`;
  });
  const bad = checks.filter(({ level }) => level === "fail").length;
  return `${lines.join("\n")}\n\n${bad === 0 ? "All that rbees needs is here." : `${plural(bad, "thing")} to mend.`}\n`;
}
