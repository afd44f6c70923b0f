/** The input file of a batch, line by line: what it asks, or everything that is wrong with it. */
import type { BatchProblem } from "@rbees/contracts/batch";
import { ERASED_LINE } from "./store/erased-lines.ts";

export interface InputLine {
  /** From 1. */
  readonly line: number;
  readonly custom_id: string;
  /** Undefined: its subject was erased. */
  readonly body: object | undefined;
}

/** So many problems are told: whoever has more will find them the next time. */
const PROBLEMS_MAX = 100;
const CUSTOM_ID_CHARS_MAX = 512;
/** So many lines are read between two turns of the event loop. */
const LINES_A_TURN = 200;

export interface BatchInput {
  readonly lines: readonly InputLine[];
  readonly problems: readonly BatchProblem[];
}

export async function readBatchInput(text: string, endpoint: string, lines_max: number): Promise<BatchInput> {
  const lines: InputLine[] = [];
  const problems: BatchProblem[] = [];
  const seen = new Set<string>();
  let number = 0;
  for (let from = 0; from < text.length && problems.length < PROBLEMS_MAX; ) {
    const end = text.indexOf("\n", from);
    const raw = text.slice(from, end < 0 ? text.length : end).trim();
    from = end < 0 ? text.length : end + 1;
    number += 1;
    if (number % LINES_A_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
    if (raw === "") continue;
    const problem = (code: string, message: string, param: string | null = null) => problems.push({ code, message, param, line: number });
    if (lines.length === lines_max) {
      problem("too_many_requests", `A batch may have ${lines_max} requests; split the file.`);
      break;
    }
    if (raw === ERASED_LINE) {
      lines.push({ line: number, custom_id: "", body: undefined });
      continue;
    }
    const asked = parsed(raw);
    if (asked === undefined) {
      problem("invalid_json_line", "This line is no JSON object.");
      continue;
    }
    const { custom_id, method, url, body } = asked;
    if (typeof custom_id !== "string" || custom_id === "" || custom_id.length > CUSTOM_ID_CHARS_MAX) {
      problem("invalid_custom_id", `custom_id must be a string of 1 to ${CUSTOM_ID_CHARS_MAX} characters.`, "custom_id");
    } else if (seen.has(custom_id)) problem("duplicate_custom_id", "Another line has the same custom_id.", "custom_id");
    else seen.add(custom_id);
    if (method !== "POST") problem("invalid_method", "method must be POST.", "method");
    if (url !== endpoint) problem("mismatched_endpoint", `url must be the batch's endpoint, ${endpoint}.`, "url");
    if (typeof body !== "object" || body === null || Array.isArray(body)) problem("invalid_body", "body must be an object.", "body");
    else lines.push({ line: number, custom_id: String(custom_id), body });
  }
  if (lines.length === 0 && problems.length === 0) {
    problems.push({ code: "empty_file", message: "The file has no requests.", param: null, line: null });
  }
  return { lines, problems: problems.slice(0, PROBLEMS_MAX) };
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
