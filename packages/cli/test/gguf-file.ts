/** Writes small GGUF files whose header is right, for tests that need no working model. */
import { writeFile } from "node:fs/promises";

const U32 = 4;
const STRING = 8;
const ARRAY = 9;

export async function writeGguf(path: string, options: { architecture?: string; filler?: number } = {}): Promise<void> {
  const { architecture = "llama", filler = 0 } = options;
  const keys = [
    pair("general.architecture", STRING, text(architecture)),
    pair("general.name", STRING, text("Tiny")),
    pair("general.file_type", U32, u32(7)),
    pair("general.license", STRING, text("apache-2.0")),
    pair(`${architecture}.context_length`, U32, u32(512)),
    pair(`${architecture}.block_count`, U32, u32(2)),
    pair("tokenizer.ggml.model", STRING, text("llama")),
    pair("tokenizer.ggml.tokens", ARRAY, Buffer.concat([u32(STRING), u64(2), text("a"), text("b")])),
    pair("tokenizer.chat_template", STRING, text("{{ messages }}")),
  ];
  const tensor = Buffer.concat([text("token_embd.weight"), u32(2), u64(8), u64(4), u32(0), u64(0)]);
  const head = Buffer.concat([Buffer.from("GGUF"), u32(3), u64(1), u64(keys.length), ...keys, tensor]);
  const padding = Buffer.alloc((32 - (head.length % 32)) % 32);
  await writeFile(path, Buffer.concat([head, padding, Buffer.alloc(8 * 4 * 4, filler)]));
}

function pair(key: string, type: number, value: Buffer): Buffer {
  return Buffer.concat([text(key), u32(type), value]);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, "utf8");
  return Buffer.concat([u64(bytes.length), bytes]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
