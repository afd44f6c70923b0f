/**
 * LoRA adapters of one model, by name. llama.cpp applies one set of them to all that a context computes; so rows of different adapters
 * are computed in turn, and here is which one is on.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Complaints } from "../llama/model.ts";
import type { Pointer } from "./c-api.ts";
import type { LlamaLibrary } from "./library.ts";

export class Adapters {
  readonly #llama: LlamaLibrary;
  readonly #context: Pointer;
  /** A list of one adapter each, as the library takes it. */
  readonly #lists: ReadonlyMap<string, Pointer>;
  #on: string | undefined;

  constructor(llama: LlamaLibrary, context: Pointer, lists: ReadonlyMap<string, Pointer>) {
    this.#llama = llama;
    this.#context = context;
    this.#lists = lists;
  }

  get on(): string | undefined {
    return this.#on;
  }

  /** What is computed from here on goes through this one; undefined: through none. */
  use(name: string | undefined): void {
    if (name === this.#on) return;
    const list = name === undefined ? this.#llama.no_devices : this.#lists.get(name);
    if (list === undefined) throw new Error(`there is no adapter ${name}`);
    const count = name === undefined ? 0 : 1;
    const failed = this.#llama.set_adapters_lora(this.#context, list, count, Float32Array.of(1));
    if (failed !== 0) throw new Error(`llama.cpp does not take the adapter ${name} (llama_set_adapters_lora gave ${failed})`);
    this.#on = name;
  }
}

/** Loads them, before a context is made. They live as long as the model. */
export function loadAdapters(
  llama: LlamaLibrary,
  model: Pointer,
  loras: Readonly<Record<string, string>>,
  complaints: Complaints,
): Map<string, Pointer> {
  const lists = new Map<string, Pointer>();
  for (const [name, path] of Object.entries(loras)) {
    const adapter = llama.adapter_lora_init(model, path);
    if (adapter === null)
      throw new RbeesError("ENGINE_FAILED", `The engine can't load the adapter ${name}, ${path}: ${complaints.lines.join("; ")}.`);
    const list = llama.koffi.alloc("void *", 1);
    llama.koffi.encode(list, "void *", adapter);
    lists.set(name, list as Pointer);
  }
  return lists;
}
