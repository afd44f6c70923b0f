/** `rbees tls …`: the authority of this machine and its certificates. */
import type { Look } from "../look.ts";
import { repeated, verb, whole } from "../verb.ts";
import type { CertificateFacts } from "./authority.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const authority = () => import("./authority.ts");
const rendering = () => import("../render/table.ts");
const days = whole(1, 3650);

export const tlsVerbs = [
  verb(
    {
      path: "tls init",
      summary: "make an authority, and certificates for the orchestrator and workers of this machine",
      examples: ["rbees tls init", "rbees tls init --name rbees.lan --name 10.77.0.1"],
    },
    (command) =>
      command
        .option("--name <name>", "a further name or address that it is called by; may be repeated", repeated)
        .option("--days <n>", "how long the certificate is good (default 365)", days),
    {
      async run(context, { name = [], days }) {
        const { certifyThisHost, ensureAuthority, showCertificates } = await authority();
        await ensureAuthority(context);
        await certifyThisHost(context, name, days);
        return { certificates: showCertificates(context) };
      },
      render: renderCertificates,
    },
  ),
  verb(
    {
      path: "tls renew",
      summary:
        "new certificates for the orchestrator and workers of this machine, with the names they have; they are taken up without a restart",
      examples: ["rbees tls renew", "rbees tls renew --name rbees.lan --days 90"],
    },
    (command) =>
      command
        .option("--name <name>", "a further name or address; may be repeated", repeated)
        .option("--days <n>", "how long it is good (default 365)", days),
    {
      async run(context, { name = [], days }) {
        const { certifyThisHost } = await authority();
        return { certificates: await certifyThisHost(context, name, days) };
      },
      render: renderCertificates,
    },
  ),
  verb(
    {
      path: "tls show",
      summary: "the certificates of this machine: their names, and how long they are good",
      examples: ["rbees tls show", "rbees tls show --json | jq -r '.certificates[].expires_at'"],
    },
    (command) => command,
    {
      run: async (context) => ({ certificates: (await authority()).showCertificates(context) }),
      render: renderCertificates,
    },
  ),
  verb(
    {
      path: "tls issue",
      summary: "a certificate for the workers of another machine, from what `rbees-pool tls request` printed there",
      examples: [
        "rbees tls issue request.json > worker.pem",
        "ssh attic.lan rbees-pool tls request --json | rbees tls issue - > worker.pem",
      ],
    },
    (command) =>
      command.argument("<file>", "the request; - is stdin").option("--days <n>", "how long the certificate is good (default 365)", days),
    {
      async run(context, { days }, file) {
        const [{ allowedNames, issue }, { readRequest }] = await Promise.all([authority(), import("./read-request.ts")]);
        const { public_key, names } = await readRequest(context, file);
        return { certificate: await issue(context, { public_key, names: allowedNames(context, names), days }) };
      },
      render: ({ certificate }) => certificate,
    },
  ),
];

/** Of `rbees-pool`, and so of `rbees pool … --host` too. */
export const tlsRequestVerbs = [
  verb(
    {
      path: "tls request",
      summary: "what this host asks a certificate for its workers with; the key stays here",
      examples: ["rbees-pool tls request --json > request.json"],
    },
    (command) => command.option("--name <name>", "a further name or address that its workers are called by; may be repeated", repeated),
    {
      run: async (context, { name = [] }) => (await import("./request.ts")).requestCertificate(context, name),
      render: (request) => `${JSON.stringify(request)}\n`,
    },
  ),
];

async function renderCertificates({ certificates }: { certificates: readonly CertificateFacts[] }, look: Look): Promise<string> {
  const { table } = await rendering();
  return table(
    certificates,
    [
      { title: "FILE", of: ({ file }) => file, name: true },
      { title: "OF", of: ({ subject }) => subject },
      { title: "EXPIRES", of: ({ expires_at, expired }) => (expired ? `expired ${expires_at}` : expires_at) },
      { title: "SHA-256", of: ({ sha256 }) => sha256.slice(0, 16) },
      { title: "NAMES", of: ({ names }) => names.join(" ") },
    ],
    look,
    "No certificates here; `rbees tls init` makes some.",
  );
}
