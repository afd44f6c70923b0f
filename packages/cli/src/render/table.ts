/** Rows and columns, and lists of facts. Widths are those of the terminal, also for 状态; no frame, no trailing blanks. */
import Table from "cli-table3";
import { type Look, withoutControls } from "../look.ts";

export interface Column<Row> {
  title: string;
  of: (row: Row) => string;
  right?: boolean;
  /** Shown in the accent colour: what a row is called. */
  name?: boolean;
}

const NO_FRAME = Object.fromEntries(
  ["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left", "bottom-right", "left", "left-mid"]
    .concat(["mid", "mid-mid", "right", "right-mid"])
    .map((part) => [part, ""]),
);

function frameless(aligns: ("left" | "right")[]): Table.Table {
  return new Table({
    chars: { ...NO_FRAME, middle: "   " },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
    colAligns: aligns,
  });
}

export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], look: Look, empty: string): string {
  if (rows.length === 0) return `${empty}\n`;
  const made = frameless(columns.map(({ right }) => (right ? "right" : "left")));
  made.push(columns.map(({ title }) => look.dim(title)));
  for (const row of rows) {
    made.push(columns.map(({ of, name }) => (name ? look.accent(clean(of(row))) : clean(of(row)))));
  }
  return trimmed(made.toString());
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
