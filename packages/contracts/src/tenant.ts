/** Tenants: whose a key and its jobs are, and what `/v2/tenants` takes and gives. */
import { z } from "zod";
import { LimitSettings, LimitsView } from "./limits.ts";
import { Area } from "./regions.ts";

/** Whose a job is when its key is of no tenant, or nobody was asked for one. It is always there. */
export const DEFAULT_TENANT = "default";

export const TenantName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, "up to 63 lower-case letters, digits and . _ -, beginning with a letter or digit");

/** A hundred years. */
const CONTENT_KEEP_MS_MAX = 3_155_760_000_000;

/** What can be said of a tenant; the same when it is made and when it is changed. */
const settings = {
  weight: z
    .number()
    .min(0.01)
    .max(100)
    .optional()
    .describe("Of its share of the workers while others wait too; a tenant of weight 2 gets twice what one of weight 1 does (default 1)"),
  residency: Area.nullable()
    .optional()
    .describe("Its jobs never leave this area: EU, EEA, or a region as workers declare it; null: they may run anywhere"),
  content_keep_ms: z
    .int()
    .nonnegative()
    .max(CONTENT_KEEP_MS_MAX)
    .nullable()
    .optional()
    .describe("How long its prompts and answers are kept after their job's end; null: as the configuration has it"),
  ...LimitSettings.shape,
};

export const CreateTenant = z.strictObject({ name: TenantName, ...settings }).meta({ id: "CreateTenant" });
export type CreateTenant = z.infer<typeof CreateTenant>;

export const SetTenant = z.strictObject(settings).meta({ id: "SetTenant" });
/** What is left out stays as it is. */
export type SetTenant = z.infer<typeof SetTenant>;

export const TenantView = z
  .object({
    name: z.string(),
    weight: z.number(),
    residency: z.string().nullable().describe("The area that its jobs never leave"),
    limits: LimitsView,
    content_keep_ms: z.int().nonnegative(),
    tokens_today: z.int().nonnegative().describe("Used and reserved by its jobs of today (UTC)"),
    keys: z.int().nonnegative().describe("Its keys that still work"),
    created_at: z.string().nullable().describe("null for the tenant that is always there"),
  })
  .meta({ id: "Tenant" });
export type TenantView = z.infer<typeof TenantView>;

export const TenantList = z.object({ tenants: z.array(TenantView) }).meta({ id: "TenantList" });
export type TenantList = z.infer<typeof TenantList>;
