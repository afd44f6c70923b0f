/** What `/v2/gdpr` takes and gives: everything that is kept of one subject, its erasure, and what it consented to. */
import { z } from "zod";
import { JobSummary } from "./job.ts";
import { CONTENT_STATES } from "./sets.ts";
import { TenantName } from "./tenant.ts";

const subject = {
  subject: z.string().min(1).max(512).describe("As jobs say it in metadata.subject"),
  tenant: TenantName.optional().describe(
    "Whose subject it is; of a key that sees one tenant only that one (default: that one, or default)",
  ),
};

export const SubjectRef = z.strictObject(subject).meta({ id: "Subject" });
export type SubjectRef = z.infer<typeof SubjectRef>;

export const ExportSubject = z
  .strictObject({
    ...subject,
    cursor: z
      .string()
      .regex(/^[fb]?\d{1,15}$/, "must be a next_cursor from an earlier answer")
      .optional(),
    limit: z.int().min(1).max(200).default(50),
  })
  .meta({ id: "ExportSubject" });
export type ExportSubject = z.infer<typeof ExportSubject>;

export const Consent = z
  .object({ purpose: z.string(), given: z.boolean().describe("false: it was withdrawn"), at: z.string() })
  .meta({ id: "Consent" });
export type Consent = z.infer<typeof Consent>;

export const ExportedJob = z
  .object({
    ...JobSummary.shape,
    content: z.enum(CONTENT_STATES),
    request: z
      .record(z.string(), z.unknown())
      .nullable()
      .describe("As it was asked, with its prompt or messages; null when it is not kept"),
    text: z.string().describe("The answer; empty when it is not kept"),
  })
  .meta({ id: "ExportedJob" });
export type ExportedJob = z.infer<typeof ExportedJob>;

export const ExportedLine = z
  .object({
    file_id: z.string().nullable().describe("The file that it stands in; null while its batch has not ended"),
    batch_id: z.string().nullable().describe("The batch that asks or answered it; null of what was uploaded"),
    line: z.int().positive().describe("Its number in the input file"),
    text: z.string(),
  })
  .meta({ id: "ExportedLine" });
export type ExportedLine = z.infer<typeof ExportedLine>;

export const SubjectExport = z
  .object({
    subject_id: z.string().describe("What the audit trail calls it"),
    tenant: z.string(),
    consents: z.array(Consent).describe("Oldest first; the last of a purpose is what holds"),
    jobs: z.array(ExportedJob).describe("Oldest first"),
    lines: z.array(ExportedLine).describe("Of files and batches, after all jobs"),
    next_cursor: z.string().optional(),
  })
  .meta({ id: "SubjectExport" });
export type SubjectExport = z.infer<typeof SubjectExport>;

export const SubjectErased = z
  .object({
    subject_id: z.string(),
    tenant: z.string(),
    jobs: z.int().nonnegative().describe("Whose prompts and answers are gone; their rows and entries in the audit trail stay"),
    lines: z.int().nonnegative().describe("Of files and batches, which say now that they are erased"),
    cancelled: z.int().nonnegative().describe("Of them those that had not ended, and were cancelled first"),
  })
  .meta({ id: "SubjectErased" });
export type SubjectErased = z.infer<typeof SubjectErased>;

export const RecordConsent = z
  .strictObject({
    ...subject,
    purpose: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9._ -]{0,127}$/, "up to 128 letters, digits, blanks and . _ -, beginning with a letter or digit")
      .describe("What for; it stays in the audit trail, so it must not say who"),
    given: z.boolean().describe("false: it is withdrawn"),
  })
  .meta({ id: "RecordConsent" });
export type RecordConsent = z.infer<typeof RecordConsent>;

export const ConsentList = z.object({ subject_id: z.string(), tenant: z.string(), consents: z.array(Consent) }).meta({ id: "ConsentList" });
export type ConsentList = z.infer<typeof ConsentList>;
