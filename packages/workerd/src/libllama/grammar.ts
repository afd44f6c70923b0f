/**
 * What an answer may say next, by its grammar: llama.cpp's own grammar sampler, one for each answer. It aborts the process when it is
 * given a token that it does not allow, so each is asked for first.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { GrammarState } from "../llama/model.ts";
import type { Pointer } from "./c-api.ts";
import type { Candidates } from "./candidates.ts";
import type { LlamaLibrary } from "./library.ts";

export class LlamaGrammar implements GrammarState {
  readonly #llama: LlamaLibrary;
  readonly #candidates: Candidates;
  #sampler: Pointer | null;

  constructor(llama: LlamaLibrary, vocab: Pointer, candidates: Candidates, text: string) {
    this.#llama = llama;
    this.#candidates = candidates;
    this.#sampler = llama.sampler_init_grammar(vocab, text, "root");
    if (this.#sampler === null) throw new RbeesError("INVALID_REQUEST", "grammar: llama.cpp can't read it", { param: "grammar" });
  }

  allows(token: number): boolean {
    this.#candidates.only(token);
    return this.filter() === 1;
  }

  accept(token: number): void {
    this.#llama.sampler_accept(this.#alive, token);
  }

  /** Leaves of the candidates those that may come next; how many. */
  filter(): number {
    this.#llama.sampler_apply(this.#alive, this.#candidates.pointer);
    return this.#candidates.keepPossible();
  }

  release(): void {
    if (this.#sampler !== null) this.#llama.sampler_free(this.#sampler);
    this.#sampler = null;
  }

  get #alive(): Pointer {
    if (this.#sampler === null) throw new Error("the grammar was released");
    return this.#sampler;
  }
}
