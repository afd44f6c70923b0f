/** What it takes this disk to make a few kilobytes durable: the unit in which durable admission is judged. */
import { closeSync, fdatasyncSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { median } from "../report.ts";
import { nowUs } from "./clock.ts";

const SYNCS = 60;

export function fsyncUs(folder: string): number {
  const path = join(folder, "fsync-probe");
  const file = openSync(path, "w");
  const block = Buffer.alloc(4096, 1);
  const took: number[] = [];
  for (let i = 0; i < SYNCS; i += 1) {
    writeSync(file, block);
    const from = nowUs();
    fdatasyncSync(file);
    took.push(nowUs() - from);
  }
  closeSync(file);
  rmSync(path);
  return median(took);
}
