/** The hub of the bench, in a process of its own: one file of any size, made as it is sent. Says where it is; then answers with what it has sent. */
import { readFileSync } from "node:fs";
import { type Content, FakeHub } from "../../test/support/fake-hub.ts";

export const REPO = "bench/model-GGUF";
export const FILE = "model-Q4_K_M.gguf";

export interface ServerOrder {
  bytes: number;
  /** A file with a right GGUF header, for the beginning. */
  header_file: string;
  /** Of each connection; 0: as fast as it goes. */
  pace_bytes_per_second: number;
}

export type ServerReport = { type: "ready"; hub: string; plain: string } | { type: "sent"; bytes: number };

/** Random bytes, over and over. The tail repeats the head, so that every slice is one piece. */
const BLOCK_BYTES = 4_194_304;
const SLICE_BYTES_MAX = 262_144;

function generated(bytes: number, header: Buffer): Content {
  const block = Buffer.alloc(BLOCK_BYTES + SLICE_BYTES_MAX);
  for (let i = 0, state = 1; i < BLOCK_BYTES; i += 4) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    block.writeUInt32LE(state, i);
  }
  block.copy(block, BLOCK_BYTES, 0, SLICE_BYTES_MAX);
  return {
    bytes,
    slice(from, to) {
      const start = from % BLOCK_BYTES;
      const slice = block.subarray(start, start + to - from);
      return from >= header.length ? slice : Buffer.concat([header.subarray(from, to), slice.subarray(header.length - from)]);
    },
  };
}

if (import.meta.main) {
  const hub = await FakeHub.start();
  const say = (report: ServerReport) => process.send?.(report);
  process.on("message", (order: ServerOrder | "sent") => {
    if (order === "sent") return void say({ type: "sent", bytes: hub.sent });
    hub.pace_bytes_per_second = order.pace_bytes_per_second || Number.POSITIVE_INFINITY;
    hub.repos.set(REPO, { commit: "5a".repeat(20), files: { [FILE]: generated(order.bytes, readFileSync(order.header_file)) } });
    say({ type: "ready", hub: hub.url, plain: hub.plainUrl(REPO, FILE) });
  });
}
