/** A model in several files, `NAME-00001-of-00003.gguf` and so on: llama.cpp is given the first and finds the others beside it. */
import { RbeesError } from "@rbees/contracts/errors";
import { Gguf, readGguf } from "./gguf.ts";

const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/s;
/** More parts than any model has: a name with a higher number is no part's name. */
const PARTS_MAX = 1_000;

/** The names of all parts, when this is the name of one; else the name alone. */
export function partsOf(name: string): string[] {
  const [, stem, number, count] = PART.exec(name) ?? [];
  const parts = Number(count);
  if (stem === undefined || parts < 1 || parts > PARTS_MAX || Number(number) < 1 || Number(number) > parts) return [name];
  return Array.from({ length: parts }, (_, i) => `${stem}-${String(i + 1).padStart(5, "0")}-of-${count}.gguf`);
}

/** One header for all parts: the first part's metadata, everybody's tensors, and their bytes added up. */
export function mergeParts(parts: readonly Gguf[]): Gguf {
  const [first, ...others] = parts;
  if (first === undefined) throw new Error("a model has at least one part");
  if (others.length === 0) return first;
  const sum = (of: (part: Gguf) => number) => parts.reduce((bytes, part) => bytes + of(part), 0);
  return new Gguf({
    version: first.version,
    metadata: first.metadata,
    tensors: parts.flatMap(({ tensors }) => tensors),
    data_offset: first.data_offset,
    // A longer part makes no other one whole.
    described_bytes: sum(({ described_bytes, file_bytes }) => Math.max(described_bytes, file_bytes)),
    file_bytes: sum(({ file_bytes }) => file_bytes),
  });
}

/** The header of a model, from the path of its file or of its first part. */
export async function readModel(path: string): Promise<Gguf> {
  const paths = partsOf(path);
  if (paths.length > 1 && paths[0] !== path)
    throw new RbeesError("INVALID_REQUEST", `${path}: this is one part of a model; give the first one, ${paths[0]}`);
  // The first says whether it really is a part: any file may be called so.
  const first = await readGguf(path);
  if ((first.number("split.count") ?? 1) < 2) return first;
  const others: Gguf[] = [];
  for (const other of paths.slice(1)) others.push(await readGguf(other));
  return mergeParts([first, ...others]);
}
