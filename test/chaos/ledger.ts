/** What the database says in the end: every accepted job ended once, with the right text, and the audit trail is whole. */
import { hash } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import type { ChainedEntry } from "@rbees/kit/audit-chain";
import { firstBroken } from "@rbees/kit/audit-check";
import type { JobTable } from "../../packages/orcd/src/store/schema.ts";
import { keptIn } from "../../packages/orcd/test/kept.ts";
import type { Tally } from "./client.ts";

type Report = (rule: string, expected: unknown, seen: unknown, job?: string) => void;

/** `path`: the database of an orchestrator that has stopped, `content_key` the file of its key. Returns how many jobs it holds. */
export function checkLedger(path: string, content_key: string, tally: Tally, violation: Report): number {
  const db = new DatabaseSync(path, { readOnly: true });
  const entries = db.prepare("select * from audit order by seq").all() as unknown as ChainedEntry[];
  db.close();
  const { jobs } = keptIn(path, content_key);
  const broken = firstBroken(entries);
  if (broken !== undefined) violation("the audit trail is whole", "an unbroken chain", broken);
  const told = new Map<string, { accepted: number; ended: Record<string, unknown>[] }>();
  for (const { kind, record } of entries) {
    const fields = JSON.parse(record) as Record<string, unknown>;
    if (typeof fields["job_id"] !== "string") continue;
    const of = told.get(fields["job_id"]) ?? { accepted: 0, ended: [] };
    told.set(fields["job_id"], of);
    if (kind === "job.accepted") of.accepted += 1;
    if (kind === "job.ended" || kind === "job.cancelled") of.ended.push(fields);
  }
  for (const job of jobs) {
    const report = (rule: string, expected: unknown, seen: unknown) => violation(rule, expected, seen, job.id);
    const { accepted = 0, ended = [] } = told.get(job.id) ?? {};
    if (accepted !== 1) report("a job is accepted once in the audit trail", 1, accepted);
    if (ended.length !== 1) report("a job ends once in the audit trail", 1, ended.length);
    for (const { status, answer_sha256 } of ended) {
      if (status !== job.status) report("trail and row agree", job.status, status);
      if (answer_sha256 !== hash("sha256", job.text, "hex")) report("the trail has the hash of the row's text", job.text, answer_sha256);
    }
    checkRow(job, tally, report);
  }
  for (const [id, { accepted }] of told)
    if (accepted > 0 && !jobs.some((job) => job.id === id)) violation("an accepted job has a row", id, "none", id);
  return jobs.length;
}

/** Also of jobs whose client never heard that they were accepted. */
function checkRow(job: JobTable, tally: Tally, report: (rule: string, expected: unknown, seen: unknown) => void): void {
  const { metadata } = JSON.parse(job.request) as { metadata: { chaos?: string } };
  const asked = metadata.chaos === undefined ? undefined : tally.asked.get(metadata.chaos);
  if (job.ended_at_ms === null) report("every job ends", "ended", job.status);
  if (asked === undefined) return;
  if (job.status === "succeeded") {
    if (job.text !== asked.truth.text) report("the row has the text of the undisturbed run", asked.truth.text, job.text);
  } else if (!(asked.cut as readonly (string | null)[]).includes(job.error_code))
    report("the job ends well", "succeeded", job.error_message);
  else if (!asked.truth.text.startsWith(job.text)) report("a cut text is the beginning of the whole", asked.truth.text, job.text);
}
