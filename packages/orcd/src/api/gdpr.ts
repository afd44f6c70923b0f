/** The routes of what is kept of one subject: export, erasure, consent. What is another tenant's is not there. */
import { RbeesError } from "@rbees/contracts/errors";
import type { Consent, ExportedJob, SubjectRef } from "@rbees/contracts/gdpr";
import type { orcdRoutes } from "@rbees/contracts/routes";
import { DEFAULT_TENANT } from "@rbees/contracts/tenant";
import type { Handlers } from "@rbees/kit/http";
import type { Batches } from "../batches.ts";
import { type Asked, callerOf } from "../caller.ts";
import type { Files } from "../files.ts";
import type { JobRegistry } from "../job-registry.ts";
import { storedAnswer, summary } from "../job-view.ts";
import type { Loop } from "../loop.ts";
import type { SubjectName } from "../store/content.ts";
import type { Store } from "../store/port.ts";
import type { ConsentTable, JobTable } from "../store/schema.ts";
import type { ExportCursor } from "../store/subject-lines.ts";
import { subjectOf } from "../subject.ts";

type GdprRoutes = Pick<typeof orcdRoutes, "exportSubject" | "eraseSubject" | "recordConsent" | "listConsents">;

export interface GdprPorts {
  readonly store: Store;
  readonly loop: Loop;
  readonly jobs: JobRegistry;
  readonly files: Files;
  readonly batches: Batches;
  readonly replay_after_end_ms: number;
}

export function gdprHandlers({ store, loop, jobs, files, batches, replay_after_end_ms }: GdprPorts): Handlers<GdprRoutes> {
  const nameOf = ({ subject, tenant }: SubjectRef, asker: Asked): SubjectName => {
    const caller = callerOf(asker);
    const whose = tenant ?? (caller.everywhere ? DEFAULT_TENANT : caller.tenant);
    if (!caller.everywhere && whose !== caller.tenant) throw nothingKept();
    return { tenant: whose, name: subject };
  };
  /** How many jobs of the subject were cancelled. */
  const cancelJobs = async ({ tenant, name }: SubjectName, who: string | undefined): Promise<number> => {
    const running = [...jobs.active()].filter((job) => job.tenant === tenant && subjectOf(job.request.metadata) === name && !job.decided);
    await Promise.all(running.map(({ id }) => loop.send({ type: "job.cancelled", job_id: id }, who).done));
    return running.length;
  };
  return {
    async exportSubject({ body, who, principal }) {
      const subject = nameOf(body, { principal });
      const page = { subject, who, now_ms: Date.now(), after: cursorFrom(body.cursor), limit: body.limit };
      const found = await store.exportSubject(page);
      if (found === undefined) throw nothingKept();
      return {
        json: {
          subject_id: found.subject_id,
          tenant: subject.tenant,
          consents: found.consents.map(consent),
          jobs: found.jobs.map((row) => exported(row, loop, jobs)),
          lines: found.lines,
          ...(found.next === undefined ? {} : { next_cursor: cursorOf(found.next) }),
        },
      };
    },
    async eraseSubject({ body, who, principal }) {
      const subject = nameOf(body, { principal });
      // First of all: what batches have of it in memory is asked by nobody any more.
      batches.forget(subject);
      const before = await cancelJobs(subject, who);
      // Of those too that have begun meanwhile: whatever one reads after this turn is read after the erasure.
      batches.forget(subject);
      const erased = await store.eraseSubject({ subject, who, now_ms: Date.now(), recent_ms: replay_after_end_ms });
      if (erased === undefined) throw nothingKept();
      const { subject_id, recent } = erased;
      // Those that came while the others were cancelled: what they still get is written nowhere.
      const late = recent.filter((id) => jobs.get(id)?.decided === false);
      await Promise.all(late.map((id) => loop.send({ type: "job.cancelled", job_id: id }, who).done));
      for (const id of recent) jobs.forget(id);
      files.shrink(erased.file_bytes);
      await batches.forgotten(subject);
      const { jobs: count, lines } = erased;
      return { json: { subject_id, tenant: subject.tenant, jobs: count, lines, cancelled: before + late.length } };
    },
    async recordConsent({ body, who, principal }) {
      const { purpose, given } = body;
      const at_ms = Date.now();
      await store.recordConsent({ subject: nameOf(body, { principal }), who, now_ms: at_ms, purpose, given });
      return { status: 201, json: { purpose, given, at: new Date(at_ms).toISOString() } };
    },
    async listConsents({ query, principal }) {
      const subject = nameOf(query, { principal });
      const found = await store.listConsents(subject);
      if (found === undefined) throw nothingKept();
      return { json: { subject_id: found.subject_id, tenant: subject.tenant, consents: found.consents.map(consent) } };
    },
  };
}

const LETTERS = { jobs: "", files: "f", batches: "b" } as const;

function cursorOf({ of, seq }: ExportCursor): string {
  return `${LETTERS[of]}${seq}`;
}

function cursorFrom(text = "0"): ExportCursor {
  const of = text.startsWith("f") ? "files" : text.startsWith("b") ? "batches" : "jobs";
  return { of, seq: Number(text.slice(LETTERS[of].length)) };
}

/** The same whether it is another's, was erased, or never was. Does not say the name. */
function nothingKept(): RbeesError {
  return new RbeesError("NOT_FOUND", "Nothing is kept of this subject. Check how jobs write it in metadata.subject, and the tenant.");
}

function consent({ purpose, given, at_ms }: ConsentTable): Consent {
  return { purpose, given: given === 1, at: new Date(at_ms).toISOString() };
}

function exported(row: JobTable, { state }: Loop, jobs: JobRegistry): ExportedJob {
  return {
    ...summary(row, state, jobs.get(row.id)),
    content: row.content === "clear" ? "kept" : row.content,
    request: row.request === "" ? null : JSON.parse(row.request),
    ...storedAnswer(row),
  };
}
