/** A GGUF file on this host: what its header says, and its hash. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { basename } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { Gguf } from "@rbees/kit/gguf";
import { readModel } from "@rbees/kit/gguf-split";
import { z } from "zod";

export const ModelFacts = z.object({
  path: z.string(),
  bytes: z.int(),
  parts: z.int().describe("In how many files it comes"),
  name: z.string().nullable(),
  architecture: z.string().nullable(),
  parameters: z.int().nullable(),
  quantisation: z.string().nullable(),
  context_size: z.int().nullable(),
  layers: z.int().nullable(),
  embedding_length: z.int().nullable(),
  tokenizer: z.string().nullable(),
  vocabulary: z.int().nullable(),
  chat_template: z.string().nullable(),
  license: z.string().nullable(),
  truncated: z.string().nullable().describe("What is missing, when the file is shorter than its header says"),
});
export type ModelFacts = z.infer<typeof ModelFacts>;

const HASH_CHUNK_BYTES = 1_048_576;

export async function describeFile(path: string): Promise<ModelFacts> {
  return factsOf(await readModel(path), path);
}

/** `path`: where it is, or where it would come from. */
export function factsOf(gguf: Gguf, path: string): ModelFacts {
  const parameters = gguf.tensors.reduce((sum, { shape }) => sum + shape.reduce((product, length) => product * length, 1), 0);
  return {
    path,
    bytes: gguf.file_bytes,
    parts: gguf.number("split.count") ?? 1,
    name: gguf.text("general.name") ?? null,
    architecture: gguf.architecture ?? null,
    parameters: parameters === 0 ? null : parameters,
    quantisation: gguf.quantisation,
    context_size: gguf.context_size ?? null,
    layers: gguf.parameter("block_count") ?? null,
    embedding_length: gguf.parameter("embedding_length") ?? null,
    tokenizer: gguf.text("tokenizer.ggml.model") ?? null,
    vocabulary: gguf.array("tokenizer.ggml.tokens")?.length ?? null,
    chat_template: gguf.text("tokenizer.chat_template") ?? null,
    license: gguf.license ?? null,
    truncated: gguf.truncated ?? null,
  };
}

/** The file's facts, when it can be served. */
export async function checkFile(path: string): Promise<ModelFacts> {
  const facts = await describeFile(path);
  if (facts.truncated !== null) throw new RbeesError("INVALID_REQUEST", `${basename(path)}: ${facts.truncated}.`);
  if (facts.architecture === null)
    throw new RbeesError("INVALID_REQUEST", `${basename(path)}: the header names no architecture; this is no language model.`);
  return facts;
}

export async function sha256Of(path: string, signal: AbortSignal, onProgress: (bytes: number) => void): Promise<string> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: HASH_CHUNK_BYTES, signal })) {
    hash.update(chunk);
    bytes += chunk.length;
    onProgress(bytes);
  }
  return hash.digest("hex");
}
