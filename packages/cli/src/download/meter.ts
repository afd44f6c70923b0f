/** How far a download is, as people and programs want to know it: a bar on a terminal, a line now and then in a pipe, events. */
import type { PoolDownloadProgress } from "@rbees/contracts/pool";
import type { Context } from "../context.ts";
import { duration, percent, size } from "../look.ts";

const WINDOW_MS = 5_000;
const DRAW_MS = 100;
const EVENT_MS = 500;
const LINE_MS = 10_000;
const LINE_SHARE = 0.1;
const BAR_WIDTH = 24;

export class Meter {
  readonly #context: Context;
  readonly #name: string;
  readonly #bytes_total: number;
  /** Bytes that were there at some moments of the last seconds. */
  #seen: { ms: number; bytes: number }[] = [];
  #said_ms = Number.NEGATIVE_INFINITY;
  #said_bytes = 0;

  constructor(context: Context, name: string, bytes_total: number) {
    this.#context = context;
    this.#name = name;
    this.#bytes_total = bytes_total;
  }

  /** `bytes`: all that is there. */
  show(bytes: number): void {
    const now = performance.now();
    const every_ms = this.#context.json ? EVENT_MS : this.#context.io.err_look.tty ? DRAW_MS : LINE_MS;
    const share = !this.#context.json && !this.#context.io.err_look.tty && bytes - this.#said_bytes >= LINE_SHARE * this.#bytes_total;
    const last = this.#seen.at(-1);
    if (last === undefined || now - last.ms >= DRAW_MS) this.#seen.push({ ms: now, bytes });
    while ((this.#seen[0]?.ms ?? now) < now - WINDOW_MS && this.#seen.length > 2) this.#seen.shift();
    if (now - this.#said_ms < every_ms && !share) return;
    this.#said_ms = now;
    this.#said_bytes = bytes;
    this.#tell(this.#progress(bytes, now));
  }

  #progress(bytes: number, now: number): PoolDownloadProgress {
    const from = this.#seen[0] ?? { ms: now, bytes };
    const passed_ms = now - from.ms;
    const bytes_per_second = passed_ms < DRAW_MS ? null : Math.round((1000 * Math.max(0, bytes - from.bytes)) / passed_ms);
    const left_ms = bytes_per_second ? Math.round((1000 * (this.#bytes_total - bytes)) / bytes_per_second) : null;
    return { type: "progress", name: this.#name, bytes, bytes_total: this.#bytes_total, bytes_per_second, left_ms };
  }

  #tell(progress: PoolDownloadProgress): void {
    const { io, json, quiet } = this.#context;
    if (json && !quiet) io.out(`${JSON.stringify(progress)}\n`);
    if (json || quiet) return;
    const { bytes, bytes_total, bytes_per_second, left_ms } = progress;
    const speed = bytes_per_second === null ? "" : `  ${size(bytes_per_second)}/s`;
    const left = left_ms === null ? "" : `  ${duration(left_ms)} left`;
    const state = `${percent(bytes, bytes_total).padStart(5)}  ${size(bytes)} of ${size(bytes_total)}${speed}${left}`;
    if (!io.err_look.tty) return io.say(`${this.#name} ${state}`);
    const filled = Math.floor((BAR_WIDTH * bytes) / Math.max(1, bytes_total));
    io.progress(this.#name, `${"█".repeat(filled)}${"░".repeat(BAR_WIDTH - filled)} ${state}`);
  }
}
