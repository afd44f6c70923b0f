/** `npm run docs`: writes `docs/openapi.json`, `docs/errors.md` and the tables in `docs/openai.md`, `docs/ollama.md` and `docs/anthropic.md` from those that the programs themselves use. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ANTHROPIC_FIELDS } from "@rbees/contracts/anthropic";
import { BATCH_FIELDS } from "@rbees/contracts/batch";
import { EMBEDDING_FIELDS, OLLAMA_EMBEDDING_FIELDS } from "@rbees/contracts/embed";
import { ERRORS } from "@rbees/contracts/errors";
import type { FieldTable } from "@rbees/contracts/field-table";
import { OLLAMA_FIELDS } from "@rbees/contracts/ollama";
import { JobHeaders, OPENAI_FIELDS } from "@rbees/contracts/openai";
import { openApi } from "@rbees/contracts/openapi";
import { RESPONSES_FIELDS } from "@rbees/contracts/responses";
import { orcdAccess, orcdRoutes } from "@rbees/contracts/routes";
import { VERSION } from "@rbees/kit/version";

/** File name → content: what is generated, for this script and for the test that holds the files true. */
export function generatedDocs(): Record<string, string> {
  return {
    "openapi.json": `${JSON.stringify(openApi(orcdRoutes, { title: "rbees orchestrator", version: VERSION }, orcdAccess), null, 2)}\n`,
    "errors.md": errorsPage(),
    "openai.md": withTables("openai.md", { ...OPENAI_FIELDS, ...EMBEDDING_FIELDS, ...BATCH_FIELDS, ...RESPONSES_FIELDS }),
    "ollama.md": withTables("ollama.md", { ...OLLAMA_FIELDS, ...OLLAMA_EMBEDDING_FIELDS }),
    "anthropic.md": withTables("anthropic.md", ANTHROPIC_FIELDS),
  };
}

const BEGIN = "<!-- begin: made by `npm run docs` from the schemas in packages/contracts/src -->";
const END = "<!-- end -->";

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The page as it is written, with the tables between the two marks made anew. */
function withTables(name: string, tables: Readonly<Record<string, FieldTable>>): string {
  const page = readFileSync(new URL(`../docs/${name}`, import.meta.url), "utf8");
  const [before, rest] = page.split(BEGIN);
  const after = rest?.split(END)[1];
  if (after === undefined) throw new Error(`docs/${name} has lost its marks: ${BEGIN} … ${END}`);
  const fields = Object.entries(tables).map(([place, table]) => fieldsTable(place, table));
  const headers = Object.entries(JobHeaders.shape).map(([name, type]) => `| \`${name}\` | ${type.description} |`);
  const headers_table = `### Headers\n\n| header | says |\n|---|---|\n${headers.join("\n")}\n`;
  return `${before}${BEGIN}\n\n${fields.join("\n")}\n${headers_table}\n${END}${after}`;
}

function fieldsTable(place: string, { supported, hints, refused }: FieldTable): string {
  const rows = (fields: FieldTable["supported"], what: string) =>
    Object.entries(fields).map(([name, type]) => `| \`${name}\` | ${what} | ${sentence(type.description ?? "")} |`);
  return `### ${place}

| field | | |
|---|---|---|
${[...rows(supported, "supported"), ...rows(hints, "hint"), ...rows(refused, "refused")].join("\n")}
`;
}

function errorsPage(): string {
  const rows = Object.entries(ERRORS).map(
    ([code, { status, exit, retriable, title }]) => `| \`${code}\` | ${status} | ${exit} | ${retriable ? "yes" : "no"} | ${title} |`,
  );
  return `# Errors

Made by \`npm run docs\` from \`packages/contracts/src/errors.ts\`. Every refusal has this body:

\`\`\`json
{"error":{"code":"QUEUE_FULL","message":"…","type":"rate_limit_error","param":null,"retriable":true,"correlation_id":"…","retry_after_ms":1200}}
\`\`\`

\`retriable\` says whether the same request can go better later; 429 and 503 carry \`Retry-After\` and \`X-Backoff-Ms\`,
and every refusal \`X-Should-Retry\`, by which the clients of OpenAI and Anthropic go.
The exit code is that of the command lines.

| code | HTTP | exit | retriable | meaning |
|---|---|---|---|---|
${rows.join("\n")}
`;
}

if (import.meta.main) {
  const folder = fileURLToPath(new URL("../docs/", import.meta.url));
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of Object.entries(generatedDocs())) writeFileSync(folder + name, content);
  process.stdout.write(
    `Wrote ${Object.keys(generatedDocs())
      .map((name) => `docs/${name}`)
      .join(", ")}\n`,
  );
}
