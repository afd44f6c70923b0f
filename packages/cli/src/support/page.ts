/**
 * `MODEL_SUPPORT.md`: a page for people, and in it the results that it is made from, so that a later run on another host adds to it.
 * It names no host, no folder and no address.
 */
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { BACKENDS } from "@rbees/contracts/sets";
import { z } from "zod";
import { writeWhole } from "../local/json-file.ts";
import { duration, rate, size } from "../look.ts";
import { type Host, type PoolResult, SupportResult } from "./result.ts";

const Results = z.object({ version: z.literal(1), results: z.array(SupportResult) });

const BEGIN = "<!-- rbees-results";
const END = "-->";
/** As any file: the umask takes from it. */
const PAGE_MODE = 0o666;

/** The results that a page holds; none when there is no such file. Refuses a file that somebody else wrote. */
export async function readPage(path: string): Promise<SupportResult[]> {
  let text: string;
  try {
    text = await readFile(resolve(path), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  const from = text.indexOf(BEGIN);
  const to = text.indexOf(END, from);
  const results = from < 0 || to < 0 ? undefined : parsed(text.slice(from + BEGIN.length, to));
  if (results === undefined) {
    throw new RbeesError(
      "CONFLICT",
      `${path} holds no results of earlier runs that could be kept, and is left as it is. --write FILE names another file, --no-write none.`,
    );
  }
  return results;
}

export async function writePage(path: string, results: SupportResult[], models: readonly string[]): Promise<void> {
  await writeWhole(resolve(path), pageOf(results, models), PAGE_MODE);
}

function parsed(text: string): SupportResult[] | undefined {
  try {
    return Results.safeParse(JSON.parse(text)).data?.results;
  } catch {
    return undefined;
  }
}

/** `places` are names that mean something on this host alone. New results take the place of old ones of the same model, backend and kind of host; a skip never that of something measured. */
export function merged(before: readonly SupportResult[], now: readonly PoolResult[], places: readonly string[]): SupportResult[] {
  const all = new Map(before.map((result) => [keyOf(result), result]));
  for (const result of now) {
    // Of a host that did not answer there is nothing to tell.
    if (result.host === null) continue;
    const key = keyOf(result);
    const old = all.get(key);
    if (result.outcome === "skipped" && old !== undefined && old.outcome !== "skipped") continue;
    all.set(key, forEveryone(result, places));
  }
  return [...all.values()].sort(
    (a, b) =>
      a.model.localeCompare(b.model) || BACKENDS.indexOf(a.backend) - BACKENDS.indexOf(b.backend) || keyOf(a).localeCompare(keyOf(b)),
  );
}

function keyOf({ model, backend, host }: SupportResult): string {
  return JSON.stringify([model, backend, host?.processor, host?.cores, host?.system.split(" ")[0], host?.device]);
}

/** Without what says whose host it was. */
function forEveryone({ pool: _, ...result }: PoolResult, places: readonly string[]): SupportResult {
  return { ...result, reason: result.reason === null ? null : withoutPlaces(result.reason, places) };
}

/** The first sentence: what comes after it is advice for whoever was there. */
function withoutPlaces(reason: string, places: readonly string[]): string {
  const sentence = (reason.split("\n")[0] ?? "").replace(/\. (?=[A-Z`]).*$/, "");
  return sentence
    .replace(/[\w@[\]-]+(?:[.:][\w@[\]-]+)*/g, (word) => (places.includes(word) ? "the pool" : word))
    .replace(/\btest-[0-9a-f]{8}\b/g, "under test")
    .replace(/(^|[\s"'`(=])(?:~?\/|[A-Za-z]:\\)[^\s"'`),;]+/g, "$1…")
    .replace(/\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b/g, "…");
}

function pageOf(results: SupportResult[], models: readonly string[]): string {
  const measured = results.filter(({ outcome }) => outcome !== "skipped");
  const names = [...new Set([...models, ...results.map(({ model }) => model)])];
  const open = names.flatMap((model) =>
    BACKENDS.filter((backend) => !measured.some((one) => one.model === model && one.backend === backend)).map((backend) => ({
      model,
      backend,
      last: results.filter((one) => one.model === model && one.backend === backend).sort((a, b) => b.at.localeCompare(a.at))[0],
    })),
  );
  return `# Which model runs on which backend

\`rbees test models\` wrote this page and will write it again; whoever runs it on another machine adds to it. Each combination was
loaded on a worker with \`--deterministic\` (the slower mode, in which the same request gives the same tokens) and asked three fixed
questions, each twice, with temperature 0. *Passed* means that the streams were whole and in order, that each ended for the reason it gave, and
that the second answer was the first. Whether the answers are any good is not what was tested. Load time is from the command until
the worker was ready.

## Measured

${mdTable(
  ["Model", "Backend", "Result", "Tokens/s", "First token", "Load", "Memory", "Context", "Ended by", "Where", "When", "With"],
  measured.map(({ model, backend, outcome, reason, figures, host, at, rbees }) => [
    model,
    backend,
    outcome === "passed" ? "passed" : `failed: ${reason}`,
    rate(figures?.tokens_per_second),
    figures?.first_token_ms == null ? "–" : duration(figures.first_token_ms),
    figures === null ? "–" : duration(figures.load_ms),
    size(figures?.memory_bytes),
    figures === null ? "–" : String(figures.context_size),
    figures?.stop_reasons.map((one) => one ?? "–").join(", ") ?? "–",
    host === null ? "–" : where(host),
    at.slice(0, 10),
    `rbees ${rbees}${figures === null ? "" : `, ${figures.engine}`}`,
  ]),
)}

## Not run

Of these nothing is known.

${mdTable(
  ["Model", "Backend", "Result", "Why, when it was last tried"],
  open.map(({ model, backend, last }) => [
    model,
    backend,
    "not run",
    last === undefined ? "never tried" : `${last.reason} (${last.at.slice(0, 10)})`,
  ]),
)}

${BEGIN}
${JSON.stringify({ version: 1, results } satisfies z.infer<typeof Results>, null, 1).replaceAll(">", "\\u003e")}
${END}
`;
}

function where({ processor, cores, system, device }: Host): string {
  return [device, processor, `${cores} cores`, system].filter((part) => part !== null).join(", ");
}

function mdTable(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return "None.";
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replace(/[\\|<]/g, "\\$&").replace(/\s+/g, " ")).join(" | ")} |`;
  return [line(titles), `|${titles.map(() => "---").join("|")}|`, ...rows.map(line)].join("\n");
}
