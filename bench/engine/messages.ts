/** What the bench and its bare engine tell each other over the channel that `fork` opens, and what a decode window brings. */

/** Both engines are set up alike from this. */
export interface EngineSetting {
  model_path: string;
  /** Tokens in the model's vocabulary: checked by the bare engine. */
  vocabulary: number;
  slots: number;
  /** Tokens that a slot holds. */
  context_size: number;
  threads: number;
  /** Prompt tokens computed in one step. */
  chunk_tokens: number;
}

export interface DecodeResult {
  tokens: number;
  seconds: number;
  cpu_us: number;
}

export type BareOrder =
  | { kind: "load"; setting: EngineSetting }
  /** One stream for each prompt; `settle` and `tokens` are tokens of each stream before and within the measured window. */
  | { kind: "decode"; prompts: readonly (readonly number[])[]; settle: number; tokens: number };

export type BareAnswer = { loaded: { release: string } } | { decoded: DecodeResult } | { skipped: string } | { failed: string };
