/** `rbees gdpr …`: what is kept of one subject, its erasure, what it consented to. */

import { RbeesError } from "@rbees/contracts/errors";
import type { Consent, ConsentList } from "@rbees/contracts/gdpr";
import type { Context } from "./context.ts";
import { type Look, plural } from "./look.ts";
import { verb } from "./verb.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const orchestratorOf = async (context: Context) => (await import("./orchestrator.ts")).orchestratorOf(context);

const SUBJECT = ["--subject <subject>", "whose: as jobs say it in metadata.subject"] as const;
const TENANT = ["--tenant <tenant>", "the subject's tenant (default: that of the key, or default)"] as const;

export const gdprVerbs = [
  verb(
    {
      path: "gdpr export",
      summary: "everything that is kept of a subject, in lines of JSON: first what it consented to, then its jobs and its lines in files",
      examples: [
        "rbees gdpr export --subject customer-4711 > customer-4711.ndjson",
        "rbees gdpr export --subject customer-4711 --tenant acme",
      ],
    },
    (command) => command.requiredOption(...SUBJECT).option(...TENANT),
    {
      async run(context, { subject, tenant }) {
        const orchestrator = await orchestratorOf(context);
        let cursor: string | undefined;
        let [jobs, lines] = [0, 0];
        do {
          context.signal.throwIfAborted();
          const page = await orchestrator.call("exportSubject", { body: { subject, tenant, cursor } });
          const { subject_id, tenant: whose, consents } = page;
          const head = cursor === undefined ? [{ subject, subject_id, tenant: whose, consents }] : [];
          context.io.out([...head, ...page.jobs, ...page.lines].map((line) => `${JSON.stringify(line)}\n`).join(""));
          await context.io.flushed();
          jobs += page.jobs.length;
          lines += page.lines.length;
          cursor = page.next_cursor;
        } while (cursor !== undefined);
        context.say(`${plural(jobs, "job")}, ${plural(lines, "line")} of files. What is not kept any more has no request and no text.`);
      },
    },
  ),
  verb(
    {
      path: "gdpr erase",
      summary: "erase a subject: its jobs are cancelled and the key of its prompts and answers is destroyed, for good",
      examples: ["rbees gdpr erase --subject customer-4711", "rbees gdpr erase --subject customer-4711 --tenant acme --json"],
    },
    (command) => command.requiredOption(...SUBJECT).option(...TENANT),
    {
      run: async (context, { subject, tenant }) => (await orchestratorOf(context)).call("eraseSubject", { body: { subject, tenant } }),
      render: ({ subject_id, jobs, lines, cancelled }) =>
        `Erased: the prompts and answers of ${plural(jobs, "job")}${cancelled === 0 ? "" : `, ${cancelled} of which ${cancelled === 1 ? "was" : "were"} cancelled first`}${lines === 0 ? "" : `, and ${plural(lines, "line")} of files`}. Their entries in the audit trail stay, and call the subject ${subject_id}.\n`,
    },
  ),
  verb(
    {
      path: "gdpr consent",
      summary: "record that a subject has given or withdrawn its consent",
      examples: [
        "rbees gdpr consent --subject customer-4711 --purpose support-answers --given",
        "rbees gdpr consent --subject customer-4711 --purpose support-answers --withdrawn",
      ],
    },
    (command) =>
      command
        .requiredOption(...SUBJECT)
        .option(...TENANT)
        .requiredOption("--purpose <purpose>", "what for; stays in the audit trail, so it must not say who")
        .option("--given", "it consents")
        .option("--withdrawn", "it consents no more"),
    {
      async run(context, { subject, tenant, purpose, given = false, withdrawn = false }) {
        if (given === withdrawn) throw new RbeesError("INVALID_REQUEST", "Say either --given or --withdrawn.");
        return (await orchestratorOf(context)).call("recordConsent", { body: { subject, tenant, purpose, given } });
      },
      render: ({ purpose, given }) => `Recorded: consent for ${purpose} is ${given ? "given" : "withdrawn"}.\n`,
    },
  ),
  verb(
    {
      path: "gdpr consents",
      summary: "what a subject consented to; the last of a purpose is what holds",
      examples: ["rbees gdpr consents --subject customer-4711"],
    },
    (command) => command.requiredOption(...SUBJECT).option(...TENANT),
    {
      run: async (context, { subject, tenant }) =>
        (await orchestratorOf(context)).call("listConsents", { query: { subject, ...(tenant === undefined ? {} : { tenant }) } }),
      render: renderConsents,
    },
  ),
];

async function renderConsents({ consents }: ConsentList, look: Look): Promise<string> {
  const { table } = await import("./render/table.ts");
  return table(
    consents,
    [
      { title: "PURPOSE", of: ({ purpose }: Consent) => purpose, name: true },
      { title: "CONSENT", of: ({ given }) => (given ? "given" : "withdrawn") },
      { title: "AT", of: ({ at }) => at },
    ],
    look,
    "No consent is recorded.",
  );
}
