/** Test results for people: a line a file, every failure with its cause, and the closing line that machines read. */
import { relative } from "node:path";
import type { TestEvent } from "node:test/reporters";

interface FileResult {
  passed: number;
  failed: number;
  skipped: number;
  ms: number;
}

const STDERR_CHARS_MAX = 2000;

export default async function* report(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const files = new Map<string, FileResult>();
  const failures: string[] = [];
  const skips: string[] = [];
  /** The end of what each file said on stderr: why a file broke outside of any test. */
  const said = new Map<string, string>();
  for await (const event of source) {
    if (event.type === "test:stderr") {
      const from = relative(process.cwd(), event.data.file);
      said.set(from, ((said.get(from) ?? "") + event.data.message).slice(-STDERR_CHARS_MAX));
    }
    if (event.type === "test:summary" && event.data.file !== undefined) yield lineOf(files, relative(process.cwd(), event.data.file));
    if (event.type !== "test:pass" && event.type !== "test:fail") continue;
    const { name, file = "", details, skip, nesting } = event.data;
    const path = relative(process.cwd(), file);
    // The file itself is reported too: it counts only when it broke outside of any test.
    const whole_file = nesting === 0 && (name === file || name === path);
    if (whole_file && (event.type === "test:pass" || (files.get(path)?.failed ?? 0) > 0)) continue;
    if (details.type === "suite") continue;
    const result = files.get(path) ?? { passed: 0, failed: 0, skipped: 0, ms: 0 };
    if (!files.has(path)) files.set(path, result);
    if (nesting === 0) result.ms += details.duration_ms;
    if (event.type === "test:fail") {
      result.failed += 1;
      failures.push(
        `✖ ${path}: ${name}\n${indent(whole_file ? (said.get(path) ?? endOf(event.data.details.error)) : causeOf(event.data.details.error))}`,
      );
      yield `✖ ${path}: ${name}\n`;
    } else if (skip !== undefined && skip !== false) {
      result.skipped += 1;
      skips.push(`- ${path}: ${name}${typeof skip === "string" ? ` (${skip})` : ""}`);
    } else result.passed += 1;
  }
  if (skips.length > 0) yield `\nSkipped:\n${skips.join("\n")}\n`;
  if (failures.length > 0) yield `\n${failures.join("\n\n")}\n`;
  const sum = (pick: (result: FileResult) => number) => [...files.values()].reduce((total, result) => total + pick(result), 0);
  const skipped = sum((result) => result.skipped);
  yield `\n${sum((result) => result.passed)} passed, ${sum((result) => result.failed)} failed${skipped > 0 ? `, ${skipped} skipped` : ""}\n`;
}

/** One line for a file, as soon as all its tests have run. */
function lineOf(files: ReadonlyMap<string, FileResult>, path: string): string {
  const { passed, failed, skipped, ms } = files.get(path) ?? { passed: 0, failed: 0, skipped: 0, ms: 0 };
  const more = `${failed > 0 ? `, ${failed} failed` : ""}${skipped > 0 ? `, ${skipped} skipped` : ""}`;
  return `${failed > 0 ? "✖" : "✔"} ${path}: ${passed} passed${more} (${(ms / 1000).toFixed(1)} s)\n`;
}

function causeOf(error: Error & { cause?: unknown }): string {
  const cause = error.cause instanceof Error ? error.cause : error;
  return cause.stack ?? cause.message;
}

/** How the process of a file ended that said nothing. */
function endOf(error: Error & { exitCode?: unknown; signal?: unknown }): string {
  return `it ended early (${error.signal ?? `exit code ${error.exitCode}`})`;
}

function indent(text: string): string {
  return text.replace(/^/gm, "    ");
}
