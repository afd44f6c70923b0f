/**
 * Loaded before the orchestrator (`--import`), it takes the record out of it: no entry is made, hashed, chained or written, and nothing
 * else is changed. Only for the bench: a program that does this has no audit trail.
 */
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import { fileURLToPath } from "node:url";

/** File → what stands there → what is run instead. Where the text is not found any more, nothing starts. */
const CHANGES: Readonly<Record<string, readonly (readonly [there: string, instead: string])[]>> = {
  "/orcd/src/record.ts": [
    ["): Change[] {\n  return folded(", "): Change[] {\n  return withoutEntries("],
    ["function promptDigest(text: string): Fields {\n", "function promptDigest(text: string): Fields {\n  return {};\n"],
    ["function answerDigest(text: string): Fields {\n", "function answerDigest(text: string): Fields {\n  return {};\n"],
    [
      "/** An entry of the audit trail;",
      'function withoutEntries(changes: Change[]): Change[] {\n  return folded(changes.filter(({ table }) => table !== "audit"));\n}\n\n/** An entry of the audit trail;',
    ],
  ],
};

registerHooks({
  load(url, context, next) {
    const file = Object.keys(CHANGES).find((path) => url.endsWith(path));
    if (file === undefined) return next(url, context);
    let source = readFileSync(fileURLToPath(url), "utf8");
    for (const [there, instead] of CHANGES[file] ?? []) {
      if (!source.includes(there)) throw new Error(`bench/audit/without-record.ts does not know ${file} any more: it has no ${there}`);
      source = source.replace(there, instead);
    }
    return { format: "module-typescript", source, shortCircuit: true };
  },
});
