/**
 * Reads the header of a GGUF model file (version 2 and 3) without trusting a single length in it: every count is held against
 * the bytes that are there, so a damaged or hostile file costs one clear sentence and no memory.
 * The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { type FileHandle, open } from "node:fs/promises";
import { RbeesError } from "@rbees/contracts/errors";

export const GGUF_LIMITS = {
  metadata_keys_max: 65_536,
  tensors_max: 65_536,
  name_bytes_max: 65_535,
  string_bytes_max: 16_777_216,
  array_values_max: 16_777_216,
  dimensions_max: 4,
} as const;

/** Name, values in a block and bytes of a block, for each tensor type of ggml. */
const TENSOR_TYPES = table(
  `0 F32 1 4, 1 F16 1 2, 2 Q4_0 32 18, 3 Q4_1 32 20, 6 Q5_0 32 22, 7 Q5_1 32 24, 8 Q8_0 32 34, 9 Q8_1 32 36,
   10 Q2_K 256 84, 11 Q3_K 256 110, 12 Q4_K 256 144, 13 Q5_K 256 176, 14 Q6_K 256 210, 15 Q8_K 256 292,
   16 IQ2_XXS 256 66, 17 IQ2_XS 256 74, 18 IQ3_XXS 256 98, 19 IQ1_S 256 50, 20 IQ4_NL 32 18, 21 IQ3_S 256 110,
   22 IQ2_S 256 82, 23 IQ4_XS 256 136, 24 I8 1 1, 25 I16 1 2, 26 I32 1 4, 27 I64 1 8, 28 F64 1 8, 29 IQ1_M 256 56,
   30 BF16 1 2, 34 TQ1_0 256 54, 35 TQ2_0 256 66, 39 MXFP4 32 17, 40 NVFP4 64 36, 41 Q1_0 128 18, 42 Q2_0 64 18`,
);

/** `general.file_type`: what people call the quantisation of a whole file. */
const FILE_TYPES = table(
  `0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 7 Q8_0, 8 Q5_0, 9 Q5_1, 10 Q2_K, 11 Q3_K_S, 12 Q3_K_M, 13 Q3_K_L, 14 Q4_K_S, 15 Q4_K_M,
   16 Q5_K_S, 17 Q5_K_M, 18 Q6_K, 19 IQ2_XXS, 20 IQ2_XS, 21 Q2_K_S, 22 IQ3_XS, 23 IQ3_XXS, 24 IQ1_S, 25 IQ4_NL, 26 IQ3_S,
   27 IQ3_M, 28 IQ2_S, 29 IQ2_M, 30 IQ4_XS, 31 IQ1_M, 32 BF16, 36 TQ1_0, 37 TQ2_0, 38 MXFP4_MOE`,
);

function table(rows: string): ReadonlyMap<number, { name: string; block_values: number; block_bytes: number }> {
  return new Map(
    rows.split(",").map((row) => {
      const [id, name = "", block_values, block_bytes] = row.trim().split(" ");
      return [Number(id), { name, block_values: Number(block_values), block_bytes: Number(block_bytes) }];
    }),
  );
}

export interface GgufArray {
  readonly length: number;
  readonly of: string;
  /** Absent when the arrays were skipped. */
  readonly values?: readonly GgufScalar[];
}
export type GgufScalar = string | number | boolean;
export type GgufValue = GgufScalar | GgufArray;

export interface GgufTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: string;
  readonly offset: number;
  readonly bytes: number;
}

export class Gguf {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
  /** Where the tensors' data begins. */
  readonly data_offset: number;
  /** The size the header describes: a smaller file is truncated. */
  readonly described_bytes: number;
  readonly file_bytes: number;

  constructor(parts: Pick<Gguf, "version" | "metadata" | "tensors" | "data_offset" | "described_bytes" | "file_bytes">) {
    this.version = parts.version;
    this.metadata = parts.metadata;
    this.tensors = parts.tensors;
    this.data_offset = parts.data_offset;
    this.described_bytes = parts.described_bytes;
    this.file_bytes = parts.file_bytes;
  }

  text(key: string): string | undefined {
    const value = this.metadata.get(key);
    return typeof value === "string" ? value : undefined;
  }

  number(key: string): number | undefined {
    const value = this.metadata.get(key);
    return typeof value === "number" ? value : undefined;
  }

  array(key: string): GgufArray | undefined {
    const value = this.metadata.get(key);
    return typeof value === "object" ? value : undefined;
  }

  get architecture(): string | undefined {
    return this.text("general.architecture");
  }

  /** A hyper-parameter of the architecture, such as `block_count`. */
  parameter(name: string): number | undefined {
    return this.number(`${this.architecture}.${name}`);
  }

  get context_size(): number | undefined {
    return this.parameter("context_length");
  }

  /** What the file calls itself, else the type that holds most of its bytes. */
  get quantisation(): string {
    const stated = FILE_TYPES.get(this.number("general.file_type") ?? -1);
    if (stated !== undefined) return stated.name;
    const bytes = new Map<string, number>();
    for (const tensor of this.tensors) bytes.set(tensor.type, (bytes.get(tensor.type) ?? 0) + tensor.bytes);
    return [...bytes].sort((a, b) => b[1] - a[1])[0]?.[0] ?? "unknown";
  }

  get license(): string | undefined {
    return this.text("general.license");
  }

  /** A sentence when the file is shorter than its header says. */
  get truncated(): string | undefined {
    if (this.file_bytes >= this.described_bytes) return undefined;
    return `the header describes ${this.described_bytes} bytes, the file has ${this.file_bytes}: it is truncated, download it again`;
  }
}

/** Reads a header. `arrays: true` keeps the values of arrays (vocabularies are large), otherwise only their lengths. */
export async function readGguf(path: string, options: { arrays?: boolean } = {}): Promise<Gguf> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "there is no such file" : code === "EACCES" ? "not allowed to read it" : String(code);
    throw new RbeesError(code === "ENOENT" ? "NOT_FOUND" : "INVALID_REQUEST", `${path}: ${why}`, { cause: error });
  }
  try {
    const stat = await file.stat();
    if (stat.isFile()) return await readGgufFrom({ bytes: stat.size, read: (...window) => readFully(file, ...window) }, path, options);
    throw new RbeesError("INVALID_REQUEST", `${path}: this is ${stat.isDirectory() ? "a folder, not a model file" : "not a regular file"}`);
  } finally {
    await file.close();
  }
}

/** Where a header is read from: a file, or a server that gives ranges of one. */
export interface GgufSource {
  /** The size of the whole file. */
  readonly bytes: number;
  /** Fills `window` from `at` on; false when the file ends before that. */
  read(window: Buffer, at: number): Promise<boolean>;
}

/** Reads a header from anywhere. `shown` is what the file is called when something is wrong with it. */
export async function readGgufFrom(source: GgufSource, shown: string, options: { arrays?: boolean } = {}): Promise<Gguf> {
  try {
    return await readHeader(new Reader(source), options.arrays ?? false);
  } catch (error) {
    if (error instanceof Damaged) throw new RbeesError("INVALID_REQUEST", `${shown}: ${error.message}`);
    throw error;
  }
}

async function readFully(file: FileHandle, window: Buffer, at: number): Promise<boolean> {
  let filled = 0;
  while (filled < window.length) {
    const { bytesRead } = await file.read(window, filled, window.length - filled, at + filled);
    if (bytesRead === 0) return false;
    filled += bytesRead;
  }
  return true;
}

/** What is wrong with the file; the path is put before it once, at the top. */
class Damaged extends Error {}

const VALUE_TYPES = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"] as const;
type ValueType = (typeof VALUE_TYPES)[number];
const FIXED_BYTES: Readonly<Partial<Record<ValueType, number>>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  u64: 8,
  i64: 8,
  f64: 8,
};

async function readHeader(reader: Reader, arrays: boolean): Promise<Gguf> {
  if (reader.file_bytes < 24) throw new Damaged(`this is no GGUF file: it has only ${reader.file_bytes} bytes`);
  const magic = await reader.bytes(4);
  if (magic.toString("latin1") !== "GGUF") {
    const head = magic.toString("latin1").replace(/[^\x20-\x7e]/g, "?");
    throw new Damaged(`this is no GGUF file: it begins with "${head}" instead of "GGUF"`);
  }
  const version = await reader.u32();
  if (version === 0x02000000 || version === 0x03000000)
    throw new Damaged("this GGUF file is big-endian; only little-endian files run here");
  if (version !== 2 && version !== 3) throw new Damaged(`GGUF version ${version} is not supported, only 2 and 3`);
  const tensor_count = await reader.count("tensors", GGUF_LIMITS.tensors_max);
  const key_count = await reader.count("metadata keys", GGUF_LIMITS.metadata_keys_max);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < key_count; i++) {
    const key = await reader.text(`metadata key ${i}`, GGUF_LIMITS.name_bytes_max);
    if (metadata.has(key)) throw new Damaged(`the metadata key "${shown(key)}" occurs twice`);
    metadata.set(key, await readValue(reader, valueType(await reader.u32(), key), key, arrays));
  }
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || alignment < 1 || alignment > 65_536 || !Number.isInteger(Math.log2(alignment))) {
    throw new Damaged(`general.alignment is ${shown(String(alignment))}; it must be a power of two`);
  }
  const tensors = await readTensors(reader, tensor_count, alignment);
  const data_offset = Math.ceil(reader.at / alignment) * alignment;
  const described_bytes = tensors.reduce((most, { offset, bytes }) => Math.max(most, data_offset + offset + bytes), reader.at);
  return new Gguf({ version, metadata, tensors, data_offset, described_bytes, file_bytes: reader.file_bytes });
}

async function readTensors(reader: Reader, count: number, alignment: number): Promise<GgufTensor[]> {
  const tensors: GgufTensor[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const name = await reader.text(`name of tensor ${i}`, GGUF_LIMITS.name_bytes_max);
    const where = `tensor "${shown(name)}"`;
    if (names.has(name)) throw new Damaged(`${where} occurs twice`);
    names.add(name);
    const dimensions = await reader.u32();
    if (dimensions < 1 || dimensions > GGUF_LIMITS.dimensions_max) throw new Damaged(`${where} has ${dimensions} dimensions`);
    const shape: number[] = [];
    for (let k = 0; k < dimensions; k++) shape.push(await reader.size(`${where}: dimension ${k}`));
    const type = TENSOR_TYPES.get(await reader.u32());
    if (type === undefined) throw new Damaged(`${where} has a type that this version does not know`);
    const { name: type_name, block_values, block_bytes } = type;
    const values = shape.reduce((product, length) => product * length, 1);
    if (values === 0 || !Number.isSafeInteger(values)) throw new Damaged(`${where} has the impossible shape ${shape.join("×")}`);
    if ((shape[0] ?? 0) % block_values !== 0) throw new Damaged(`${where}: rows of ${shape[0]} values can't be ${type_name}`);
    const bytes = (values / block_values) * block_bytes;
    const offset = await reader.size(`${where}: offset`);
    if (offset % alignment !== 0) throw new Damaged(`${where}: the offset ${offset} is no multiple of ${alignment}`);
    if (!Number.isSafeInteger(offset + bytes)) throw new Damaged(`${where} ends beyond any file`);
    tensors.push({ name, shape, type: type_name, offset, bytes });
  }
  return tensors;
}

function valueType(number: number, key: string): ValueType {
  const type = VALUE_TYPES[number];
  if (type === undefined) throw new Damaged(`the metadata key "${shown(key)}" has the unknown value type ${number}`);
  return type;
}

async function readValue(reader: Reader, type: ValueType, key: string, keep: boolean): Promise<GgufValue> {
  if (type === "string") return reader.text(`value of "${shown(key)}"`, GGUF_LIMITS.string_bytes_max);
  if (type !== "array") return scalar(type, await reader.bytes(FIXED_BYTES[type] ?? 0));
  const of = valueType(await reader.u32(), key);
  if (of === "array") throw new Damaged(`the metadata key "${shown(key)}" holds arrays in an array, which nothing needs`);
  const length = await reader.count(`values in "${shown(key)}"`, GGUF_LIMITS.array_values_max);
  const fixed = FIXED_BYTES[of];
  // A string takes eight bytes at least: the count can't promise more than the file holds.
  reader.holds(length * (fixed ?? 8), `the ${length} values of "${shown(key)}"`);
  if (fixed !== undefined && !keep) {
    reader.skip(length * fixed);
    return { length, of };
  }
  const values: GgufScalar[] = [];
  for (let i = 0; i < length; i++) {
    if (fixed !== undefined) values.push(scalar(of, await reader.bytes(fixed)));
    else if (keep) values.push(await reader.text(`value ${i} of "${shown(key)}"`, GGUF_LIMITS.string_bytes_max));
    else await reader.skipText(`value ${i} of "${shown(key)}"`, GGUF_LIMITS.string_bytes_max);
  }
  return keep ? { length, of, values } : { length, of };
}

function scalar(type: ValueType, bytes: Buffer): GgufScalar {
  switch (type) {
    case "u8":
      return bytes.readUInt8();
    case "i8":
      return bytes.readInt8();
    case "u16":
      return bytes.readUInt16LE();
    case "i16":
      return bytes.readInt16LE();
    case "u32":
      return bytes.readUInt32LE();
    case "i32":
      return bytes.readInt32LE();
    case "f32":
      return bytes.readFloatLE();
    case "bool":
      return bytes.readUInt8() !== 0;
    case "u64":
      return Number(bytes.readBigUInt64LE());
    case "i64":
      return Number(bytes.readBigInt64LE());
    default:
      return bytes.readDoubleLE();
  }
}

/** A name from the file as it may be shown: short and printable. */
function shown(text: string): string {
  const safe = text.replace(/[^\x20-\x7e]/g, "?");
  return safe.length > 64 ? `${safe.slice(0, 64)}…` : safe;
}

const WINDOW_BYTES = 1_048_576;

/** Reads forward through a window; refuses to go beyond the end of the file. */
class Reader {
  readonly file_bytes: number;
  readonly #source: GgufSource;
  #window: Buffer = Buffer.alloc(0);
  #window_at = 0;
  at = 0;

  constructor(source: GgufSource) {
    this.#source = source;
    this.file_bytes = source.bytes;
  }

  holds(bytes: number, what: string): void {
    if (!(bytes <= this.file_bytes - this.at)) {
      throw new Damaged(
        `${what} reach beyond the end of the file (${this.file_bytes} bytes): it is damaged or truncated, download it again`,
      );
    }
  }

  skip(bytes: number): void {
    this.at += bytes;
  }

  /** The next bytes, valid until the next read. */
  async bytes(length: number): Promise<Buffer> {
    this.holds(length, "the header's next bytes");
    const start = this.at - this.#window_at;
    if (start < 0 || start + length > this.#window.length) {
      const size = Math.min(Math.max(WINDOW_BYTES, length), this.file_bytes - this.at);
      const window = Buffer.allocUnsafe(size);
      if (!(await this.#source.read(window, this.at))) throw new Damaged("the file became shorter while it was read");
      this.#window = window;
      this.#window_at = this.at;
    }
    const from = this.at - this.#window_at;
    this.at += length;
    return this.#window.subarray(from, from + length);
  }

  async u32(): Promise<number> {
    return (await this.bytes(4)).readUInt32LE();
  }

  /** A 64-bit size that a number can hold. */
  async size(what: string): Promise<number> {
    const value = (await this.bytes(8)).readBigUInt64LE();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Damaged(`${what} is ${value}, which no file can hold: it is damaged`);
    return Number(value);
  }

  async count(what: string, max: number): Promise<number> {
    const value = await this.size(`the number of ${what}`);
    if (value > max) throw new Damaged(`the header claims ${value} ${what}, more than ${max}: it is damaged`);
    return value;
  }

  async text(what: string, bytes_max: number): Promise<string> {
    return (await this.bytes(await this.#textLength(what, bytes_max))).toString("utf8");
  }

  async skipText(what: string, bytes_max: number): Promise<void> {
    this.skip(await this.#textLength(what, bytes_max));
  }

  async #textLength(what: string, bytes_max: number): Promise<number> {
    const length = await this.size(`the length of the ${what}`);
    if (length > bytes_max) throw new Damaged(`the ${what} claims to be ${length} bytes long, more than ${bytes_max}: it is damaged`);
    this.holds(length, `the bytes of the ${what}`);
    return length;
  }
}
