/** `npm run docs`: writes `docs/openapi.json` and `docs/errors.md` from the tables that the programs themselves use. */
import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ERRORS } from "@rbees/contracts/errors";
import { openApi } from "@rbees/contracts/openapi";
import { orcdRoutes } from "@rbees/contracts/routes";
import { VERSION } from "@rbees/kit/version";

/** File name → content: what is generated, for this script and for the test that holds the files true. */
export function generatedDocs(): Record<string, string> {
  return {
    "openapi.json": `${JSON.stringify(openApi(orcdRoutes, { title: "rbees orchestrator", version: VERSION }), null, 2)}\n`,
    "errors.md": errorsPage(),
  };
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

\`retriable\` says whether the same request can go better later; 429 and 503 carry \`Retry-After\` and \`X-Backoff-Ms\`.
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
  process.stdout.write("Wrote docs/openapi.json and docs/errors.md\n");
}
