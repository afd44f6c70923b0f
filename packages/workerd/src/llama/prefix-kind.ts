/**
 * What has to be the same besides the tokens, so that kept state may be used again: the LoRA adapter through which it was computed, or it
 * would be wrong; and the request's `cache_salt`, or whoever times an answer could tell how others' prompts begin.
 */
import type { RunRequest } from "../engine.ts";

export type PrefixKind = string;

/** Of what was computed through no adapter, for requests without a salt. */
export const PLAIN: PrefixKind = "";

export function prefixKind({ lora, cache_salt }: Pick<RunRequest, "lora" | "cache_salt">): PrefixKind {
  return lora === undefined && cache_salt === undefined ? PLAIN : JSON.stringify([lora ?? null, cache_salt ?? null]);
}
