/** API keys: the roles that a key can have, how it is written, and what `/v2/keys` takes and gives. */
import { z } from "zod";
import { LimitSettings, LimitsView } from "./limits.ts";
import { KEY_STATUSES, ROLES } from "./sets.ts";
import { TenantName } from "./tenant.ts";

export const Role = z.enum(ROLES);
export type Role = z.infer<typeof Role>;

/** Roles over all tenants: a key that has one can't be of a tenant, for with it the bounds of that could be changed. */
export const ROLES_OVER_ALL = ["operate"] as const satisfies readonly Role[];

/** `rbk_<public id>_<secret>`: the id may be shown anywhere, the secret is shown once. */
export const API_KEY = /^rbk_([0-9a-z]{12})_([A-Za-z0-9_-]{43})$/;

/** A signed token of an OpenID Connect issuer (JWS, compact): taken where a key is, if the orchestrator was told of the issuer. */
export const ISSUED_TOKEN = /^[\w-]+\.[\w-]+\.[\w-]*$/;

export const CreateKey = z
  .strictObject({
    name: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$/, "up to 64 letters, digits, blanks and . _ @ -, beginning with a letter or digit")
      .describe("Who or what uses it"),
    roles: z.array(Role).min(1).max(ROLES.length),
    tenant: TenantName.optional().describe("Whose it is: it sees this tenant's jobs and no others. Default: nobody's"),
    expires_in_ms: z.int().min(1).max(315_360_000_000).optional().describe("Default: never"),
    ...LimitSettings.shape,
  })
  .refine(({ tenant, roles }) => tenant === undefined || !roles.some((role) => (ROLES_OVER_ALL as readonly Role[]).includes(role)), {
    path: ["tenant"],
    message: `must be left out: ${ROLES_OVER_ALL.join(" and ")} is over all tenants`,
  })
  .meta({ id: "CreateKey" });
export type CreateKey = z.infer<typeof CreateKey>;

/** What is left out stays as it is. */
export const SetKey = LimitSettings.meta({ id: "SetKey" });

export const RotateKey = z
  .strictObject({
    overlap_ms: z.int().nonnegative().max(2_592_000_000).default(0).describe("How long the old key still works, 30 days at most"),
  })
  .meta({ id: "RotateKey" });
export type RotateKey = z.infer<typeof RotateKey>;

export const KeyView = z
  .object({
    key_id: z.string().describe("Public: what the audit trail says for `who`"),
    name: z.string(),
    roles: z.array(z.string()),
    tenant: z.string().nullable().describe("Whose it is; null: of no tenant"),
    limits: LimitsView.describe("Beside those of its tenant: both must be kept"),
    status: z.enum(KEY_STATUSES),
    created_at: z.string(),
    expires_at: z.string().nullable(),
    revoked_at: z.string().nullable(),
  })
  .meta({ id: "Key" });
export type KeyView = z.infer<typeof KeyView>;

export const NewKey = KeyView.extend({ key: z.string().describe("Shown now and never again: only its hash is kept") }).meta({
  id: "NewKey",
});
export type NewKey = z.infer<typeof NewKey>;

export const KeyList = z.object({ keys: z.array(KeyView) }).meta({ id: "KeyList" });
export type KeyList = z.infer<typeof KeyList>;
