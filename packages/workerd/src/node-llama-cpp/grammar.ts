/** What an answer may say next, by its grammar: llama.cpp's own, which the binding keeps for each answer. */
import { RbeesError } from "@rbees/contracts/errors";
import type { GrammarState } from "../llama/model.ts";
import type { Binding, InnerGrammarState } from "./binding.ts";

export class BindingGrammar implements GrammarState {
  readonly #binding: Binding;
  #state: InnerGrammarState | undefined;

  constructor(binding: Binding, text: string) {
    this.#binding = binding;
    try {
      this.#state = binding.grammar(text);
    } catch (cause) {
      throw new RbeesError("INVALID_REQUEST", "grammar: llama.cpp can't read it", { param: "grammar", cause });
    }
  }

  allows(token: number): boolean {
    return this.#binding.allows(this.#alive, token);
  }

  accept(token: number): void {
    this.#binding.accept(this.#alive, token);
  }

  /** Where it stands, for a draw that may come to nothing. */
  copy(): InnerGrammarState {
    return this.#binding.copy(this.#alive);
  }

  /** Its memory comes back with the next collection of garbage. */
  release(): void {
    this.#state = undefined;
  }

  get #alive(): InnerGrammarState {
    if (this.#state === undefined) throw new Error("the grammar was released");
    return this.#state;
  }
}
