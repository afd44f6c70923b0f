/**
 * Tells whether two workers hold the same model, without reading gigabytes: SHA-256 over the size, the header and samples of
 * the weights, the same on every machine. It is not the SHA-256 of the file and does not look like one.
 */
import { createHash, type Hash } from "node:crypto";
import { open } from "node:fs/promises";
import type { Gguf } from "./gguf.ts";
import { partsOf } from "./gguf-split.ts";

const SAMPLES = 64;
const SAMPLE_BYTES = 65_536;

export async function fingerprint(path: string, gguf: Gguf): Promise<string> {
  const hash = createHash("sha256").update(`${gguf.file_bytes}\n`);
  const paths = (gguf.number("split.count") ?? 1) > 1 ? partsOf(path) : [path];
  for (const [index, part] of paths.entries()) await sample(hash, part, index === 0 ? gguf.data_offset : 0);
  return `gguf-sample:${hash.digest("hex")}`;
}

async function sample(hash: Hash, path: string, data_offset: number): Promise<void> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const buffer = Buffer.allocUnsafe(SAMPLE_BYTES);
    const add = async (at: number) => {
      const { bytesRead } = await file.read(buffer, 0, SAMPLE_BYTES, at);
      hash.update(buffer.subarray(0, bytesRead));
    };
    for (let at = 0; at < data_offset; at += SAMPLE_BYTES) await add(at);
    const step = Math.max(SAMPLE_BYTES, Math.floor((size - data_offset) / SAMPLES));
    for (let at = data_offset; at < size; at += step) await add(at);
  } finally {
    await file.close();
  }
}
