/** Looks at LoRA adapters before native code does: whether each is one, and of this model. Each fault is one sentence. */
import { RbeesError } from "@rbees/contracts/errors";
import { fingerprint } from "@rbees/kit/fingerprint";
import { type Gguf, readGguf } from "@rbees/kit/gguf";

const PART = /^(.*)\.lora_(a|b)$/;
/** llama.cpp leaves these out. */
const NORM = /_norm\.weight$/;
/** Here the factors stand the other way round. */
const EMBEDDING = "token_embd.weight";

export interface CheckedAdapters {
  file_bytes: number;
  /** Of all of them, by name: what was computed with one is of no use with another of the same name. */
  digests: Readonly<Record<string, string>>;
}

export async function checkAdapters(loras: Readonly<Record<string, string>>, model: Gguf): Promise<CheckedAdapters> {
  const problems: string[] = [];
  const digests: Record<string, string> = {};
  let file_bytes = 0;
  for (const [name, path] of Object.entries(loras)) {
    try {
      const gguf = await readGguf(path);
      const fault = gguf.truncated ?? adapterFault(gguf, model);
      if (fault !== undefined) problems.push(`${path}: ${fault}`);
      digests[name] = await fingerprint(path, gguf);
      file_bytes += gguf.file_bytes;
    } catch (error) {
      if (!(error instanceof RbeesError)) throw error;
      problems.push(error.message);
    }
  }
  if (problems.length > 0) throw new RbeesError("INVALID_REQUEST", problems.map((problem) => `lora: ${problem}`).join("\n"));
  return { file_bytes, digests };
}

function adapterFault(gguf: Gguf, model: Gguf): string | undefined {
  const type = gguf.text("general.type") ?? "model";
  if (type !== "adapter") return `this is no adapter: it is of the type ${type}`;
  const kind = gguf.text("adapter.type") ?? "unknown";
  if (kind !== "lora") return `this is an adapter of the kind ${kind}, not LoRA`;
  if (gguf.architecture !== model.architecture)
    return `this adapter is for the architecture ${gguf.architecture ?? "unknown"}, and the model's is ${model.architecture}`;
  if ((gguf.array("adapter.alora.invocation_tokens")?.length ?? 0) > 0)
    return "this adapter works only after certain words (aLoRA), which is not done here";
  if (gguf.tensors.length === 0) return "this adapter changes nothing: it has no tensors";
  return tensorFault(gguf, model);
}

function tensorFault(gguf: Gguf, model: Gguf): string | undefined {
  const shapes = new Map(gguf.tensors.map(({ name, shape }) => [name, shape]));
  const of_model = new Map(model.tensors.map(({ name, shape }) => [name, shape]));
  for (const name of shapes.keys()) {
    const base = PART.exec(name)?.[1];
    if (base === undefined && NORM.test(name)) continue;
    if (base === undefined) return `its tensor ${name} is no part of a LoRA adapter`;
    const [whole, a, b] = [of_model.get(base), shapes.get(`${base}.lora_a`), shapes.get(`${base}.lora_b`)];
    if (whole === undefined) return `it changes ${base}, which the model does not have`;
    if (a === undefined || b === undefined) return `of what changes ${base} one half is missing`;
    const outer = base === EMBEDDING ? [b[1], a[1]] : [a[0], b[1]];
    const inner = base === EMBEDDING ? a[0] === b[0] : a[1] === b[0];
    if (outer[0] !== whole[0] || outer[1] !== whole[1] || !inner)
      return `what changes ${base} is not of its size (${outer.join(" × ")}, and the model has ${whole.join(" × ")})`;
  }
  return undefined;
}
