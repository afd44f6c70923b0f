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
  /**
   * One stream for each prompt; `settle` and `tokens` are tokens of each stream before and within the measured window. `served`: each step's
   * tokens are told.
   */
  | { kind: "decode"; prompts: readonly (readonly number[])[]; settle: number; tokens: number; served?: boolean };

/** Where steps are told, a line of JSON each, as the bare engine's file descriptor. */
export const STEPS_FD = 4;

/** The token that each stream got, and which of its tokens that is. */
export interface ServedStep {
  i: number;
  ids: readonly number[];
}

/** `port`: where what is served can be had. */
export type BareAnswer =
  | { loaded: { release: string; port?: number } }
  | { decoded: DecodeResult }
  | { skipped: string }
  | { failed: string };
