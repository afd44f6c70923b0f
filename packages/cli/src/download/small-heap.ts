/**
 * Keeps a command that moves gigabytes small. Each read from a socket makes a buffer of 64 KiB outside of the heap, with next to nothing
 * inside it; the collector looks at the heap alone, so a hundred megabytes of buffers that nobody needs any more lie about before it
 * starts. A command has no say in Node's flags, so the collector is called by name.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const EVERY_BYTES = 4_194_304;

type Collect = (options: { type: "minor" } | { type: "major"; flavor: "last-resort" }) => void;

let collect: Collect | undefined;

function collector(): Collect {
  if (collect === undefined) {
    setFlagsFromString("--expose-gc");
    collect = runInNewContext("gc") as Collect;
  }
  return collect;
}

const shrunk = new Set<string>();

/**
 * All of the heap: gives back the room for young objects that loading the program has made. Takes some 20 ms, and is done once after
 * each stage of loading, however many files are fetched then.
 */
export function shrinkHeap(after: "start" | "connecting"): void {
  if (shrunk.has(after)) return;
  shrunk.add(after);
  collector()({ type: "major", flavor: "last-resort" });
}

/** The young generation now and then, well under a millisecond each time. Tell it how many bytes have been received and written. */
export function createSweeper(): (bytes: number) => void {
  let since = 0;
  return (bytes) => {
    since += bytes;
    if (since < EVERY_BYTES) return;
    since = 0;
    collector()({ type: "minor" });
  };
}
