/** Rows and columns, and lists of facts. Widths are those of the terminal, also for 状态; no frame, no trailing blanks. */
import { stripVTControlCharacters } from "node:util";
import Table from "cli-table3";
import { type Look, withoutControls } from "../look.ts";

export interface Column<Row> {
  title: string;
  of: (row: Row) => string;
  right?: boolean;
  /** Shown in the accent colour: what a row is called. */
  name?: boolean;
  /** May be left out where the terminal is too narrow for all: the highest first. */
  spare?: number;
}

const GAP = 3;
const NARROW_GAP = 2;

const NO_FRAME = Object.fromEntries(
  ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right", "left", "left-mid"]
    .concat(["mid", "mid-mid", "right", "right-mid"])
    .map((part) => [part, ""]),
);

function frameless(aligns: ("left" | "right")[], gap = GAP): Table.Table {
  return new Table({
    chars: { ...NO_FRAME, middle: " ".repeat(gap) },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
    colAligns: aligns,
  });
}

/** A line that the terminal would wrap is no row any more: columns come closer together first, then those that can be spared go. */
export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], look: Look, empty: string): string {
  if (rows.length === 0) return `${empty}\n`;
  const roomy = drawn(rows, columns, look, GAP);
  if (fits(roomy, look)) return roomy;
  let shown = columns;
  for (;;) {
    const text = drawn(rows, shown, look, NARROW_GAP);
    const next = shown.toSorted((a, b) => (b.spare ?? 0) - (a.spare ?? 0))[0];
    if (fits(text, look) || next?.spare === undefined) return `${text}${leftOut(columns, shown, look)}`;
    shown = shown.filter((column) => column !== next);
  }
}

function drawn<Row>(rows: readonly Row[], columns: readonly Column<Row>[], look: Look, gap: number): string {
  const made = frameless(
    columns.map(({ right }) => (right ? "right" : "left")),
    gap,
  );
  made.push(columns.map(({ title }) => look.dim(title)));
  for (const row of rows) {
    made.push(columns.map(({ of, name }) => (name ? look.accent(clean(of(row))) : clean(of(row)))));
  }
  return trimmed(made.toString());
}

function fits(text: string, { columns = Number.POSITIVE_INFINITY }: Look): boolean {
  return text.split("\n").every((line) => stripVTControlCharacters(line).length <= columns);
}

function leftOut<Row>(columns: readonly Column<Row>[], shown: readonly Column<Row>[], look: Look): string {
  const titles = columns.filter((column) => !shown.includes(column)).map(({ title }) => title);
  return titles.length === 0 ? "" : `${look.dim(`No room for ${titles.join(", ")}: a wider terminal has it, and --json.`)}\n`;
}

/** `title  value` lines; rows without a value are left out. */
export function facts(rows: readonly (readonly [string, string | null | undefined])[], look: Look): string {
  const made = frameless(["left", "left"]);
  for (const [title, value] of rows) if (value !== null && value !== undefined) made.push([look.dim(title), clean(value)]);
  return trimmed(made.toString());
}

function trimmed(text: string): string {
  return `${text.replace(/[ ]+$/gm, "")}\n`;
}

function clean(cell: string): string {
  return withoutControls(cell).replace(/[\n\t]/g, " ");
}
