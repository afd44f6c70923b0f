/** How a worker comes to belong to an orchestrator: the token it joins with, the credential it has from then on, the secret of its doors. */
import { z } from "zod";
import { WorkerId } from "./job.ts";
import { Region } from "./regions.ts";

/** `rbj_<public id>_<secret>`: opens the registry once, for one worker, for a short time. */
export const JOIN_TOKEN = /^rbj_([0-9a-z]{12})_([A-Za-z0-9_-]{43})$/;
/** `rbw_<secret>`: what a worker that has joined shows the orchestrator. */
export const WORKER_CREDENTIAL = /^rbw_([A-Za-z0-9_-]{43})$/;
/** What the orchestrator shows the worker. */
export const DOOR_SECRET = /^[A-Za-z0-9_-]{43}$/;

export const JOIN_MS_DEFAULT = 600_000;
export const JOIN_MS_MAX = 86_400_000;

export const InviteWorker = z
  .strictObject({
    pool: z
      .string()
      .regex(/^[!-~]{1,128}$/, "up to 128 letters, digits and signs, no blanks")
      .optional()
      .describe("The pool that the worker will be of"),
    worker_id: WorkerId.optional().describe("The only name that it may have"),
    address: z
      .string()
      .min(1)
      .max(253)
      .optional()
      .describe("A host that it may announce although it calls from another, such as the outside of a port forwarding"),
    region: Region.optional().describe("Where the worker stands, whatever it says itself; that of its pool (pool_regions) when not given"),
    expires_in_ms: z.int().min(1).max(JOIN_MS_MAX).default(JOIN_MS_DEFAULT).describe("How long it may take to join"),
  })
  .refine(({ pool, worker_id }) => pool !== undefined || worker_id !== undefined, { error: "name the pool, the worker_id, or both" })
  .meta({ id: "InviteWorker" });
export type InviteWorker = z.infer<typeof InviteWorker>;

export const JoinToken = z
  .object({
    token_id: z.string().describe("Public: what the audit trail says"),
    pool: z.string().nullable(),
    worker_id: z.string().nullable(),
    address: z.string().nullable(),
    region: z.string().nullable().describe("null: where the worker says that it is"),
    expires_at: z.string(),
    token: z.string().describe("Shown now and never again: only its hash is kept"),
  })
  .meta({ id: "JoinToken" });
export type JoinToken = z.infer<typeof JoinToken>;

export const Expelled = z
  .object({ worker_id: z.string(), expelled: z.boolean().describe("Whether it had a credential, which is worth nothing now") })
  .meta({ id: "Expelled" });
