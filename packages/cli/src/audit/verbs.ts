/** `rbees audit …`: the record, read without the orchestrator. */
import { InvalidArgumentError, Option } from "@commander-js/extra-typings";
import { EXIT, RbeesError } from "@rbees/contracts/errors";
import type { Context } from "../context.ts";
import { repeated, verb } from "../verb.ts";
import { EXPORT_FORMATS } from "./export-formats.ts";

/** Loaded when they are called: `--help` need not wait for them. */
const exporting = () => import("./export.ts");
const keeping = () => import("./keep.ts");
const verifying = () => import("./verify.ts");
const trailIn = async (context: Context, file: string | undefined) => (await import("./trail.ts")).trailIn(context, file);

const DB = ["--db <file>", "the database or an export (default: the database of this host's orchestrator)"] as const;
const FROM = ["--from <time>", "from the first entry of this time on, such as 2026-11-26 or 2026-11-26T10:30Z", time] as const;
const TO = ["--to <time>", "up to the first entry of this time, which is left out", time] as const;
const JOB = ["--job <id>", "only entries about this job"] as const;
const TENANT = ["--tenant <tenant>", "only entries about this tenant and its jobs"] as const;

export const auditVerbs = [
  verb(
    {
      path: "audit verify",
      summary: "whether the audit trail is whole, and where it is not",
      examples: [
        "rbees audit verify",
        "rbees audit verify trail.ndjson --public-key audit-key.pub.pem --head head.json",
        "rbees audit verify --db /var/lib/rbees/orcd/orcd.sqlite --json",
      ],
    },
    (command) =>
      command
        .argument("[file]", "an export or a database (default: the database of this host's orchestrator)")
        .option(...DB)
        .option("--public-key <file>", "the key that must have signed it, audit-key.pub.pem; may be repeated", repeated)
        .option("--head <file>", "a head that was kept (rbees audit head): must be in it")
        .option("--anchor <file>", "the file in which the orchestrator kept its heads (audit_anchor): each must be in it")
        .option("--part", "the file is a part of the trail: it may begin with any entry"),
    {
      async run(context, { db, publicKey, head, anchor, part = false }, file) {
        if (db !== undefined && file !== undefined) throw new RbeesError("INVALID_REQUEST", `Give ${file} or --db ${db}, not both.`);
        const [{ anchoredHeads, keptHead, publicKeys }, { verifyTrail }] = await Promise.all([keeping(), verifying()]);
        const keys = await publicKeys(publicKey);
        const heads = head === undefined ? [] : await keptHead(head, keys);
        const kept = new Map([...(anchor === undefined ? [] : await anchoredHeads(anchor, keys)), ...heads]);
        return verifyTrail(context, await trailIn(context, file ?? db), { part, keys, kept });
      },
      render: async (verification, look) => (await verifying()).renderVerification(verification, look),
      exit: ({ whole }) => (whole ? EXIT.done : EXIT.failed),
    },
  ),
  verb(
    {
      path: "audit list",
      summary: "what was recorded, oldest first",
      examples: [
        "rbees audit list --from 2026-11-26",
        "rbees audit list --job job_01jd",
        "rbees audit list --json | jq -r .kind | sort | uniq -c",
      ],
    },
    (command) =>
      command
        .option(...DB)
        .option(...FROM)
        .option(...TO)
        .option(...JOB)
        .option(...TENANT),
    {
      run: async (context, { db, ...selection }) => (await exporting()).listTrail(context, await trailIn(context, db), selection),
    },
  ),
  verb(
    {
      path: "audit export",
      summary: "the audit trail for others: NDJSON, which can be verified, or CSV",
      examples: ["rbees audit export > trail.ndjson", "rbees audit export --from 2026-11-01 --to 2026-12-01 --format csv > november.csv"],
    },
    (command) =>
      command
        .option(...DB)
        .option(...FROM)
        .option(...TO)
        .option(...JOB)
        .option(...TENANT)
        .addOption(new Option("--format <format>", "how entries are written").choices(EXPORT_FORMATS).default("ndjson" as const)),
    {
      run: async (context, { db, format, ...selection }) =>
        (await exporting()).exportTrail(context, await trailIn(context, db), selection, format),
    },
  ),
  verb(
    {
      path: "audit head",
      summary: "the last signed head, to keep where nobody can change it",
      examples: ["rbees audit head >> /mnt/elsewhere/heads.ndjson"],
    },
    (command) => command.option(...DB),
    {
      run: async (context, { db }) => context.io.out(`${await (await keeping()).lastHead(context, await trailIn(context, db))}\n`),
    },
  ),
  verb(
    {
      path: "audit prove",
      summary: "what proves the entries about one job: a signed part of the trail",
      examples: ["rbees audit prove job_01jd > proof.ndjson", "rbees audit verify proof.ndjson --part --public-key audit-key.pub.pem"],
    },
    (command) => command.argument("<job>", "the job's id").option(...DB),
    {
      run: async (context, { db }, job) => (await import("./prove.ts")).proveJob(context, await trailIn(context, db), job),
    },
  ),
];

/** In UTC, as the trail itself, unless it says otherwise. */
function time(text: string): Date {
  const value = new Date(/T[\d:.]+$/.test(text) ? `${text}Z` : text);
  if (!/^\d{4}-\d\d-\d\d/.test(text) || Number.isNaN(value.getTime())) {
    throw new InvalidArgumentError("Give a date or a time, such as 2026-11-26 or 2026-11-26T10:30:00Z.");
  }
  return value;
}
