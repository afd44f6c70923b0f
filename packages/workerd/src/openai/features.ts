/**
 * What a server that speaks OpenAI's API can do beyond text. Servers that can't do what a field asks for often leave it out without a word,
 * and there is no way to ask; so it is what is known of the server, by the owner that it names of its models, or what its operator says.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Feature } from "@rbees/contracts/sets";

/** What its API has words for at all. */
export const UPSTREAM_FEATURES = [
  "json_schema",
  "logit_bias",
  "penalties",
  "tools",
  "embeddings",
  "reasoning_effort",
] as const satisfies readonly Feature[];
export type UpstreamFeature = (typeof UPSTREAM_FEATURES)[number];

/** By `owned_by`. Whether vLLM and SGLang read calls and make vectors is up to how they were started. */
const KNOWN = new Map<string, readonly UpstreamFeature[]>([
  ["rbees", UPSTREAM_FEATURES],
  ["vllm", ["json_schema", "logit_bias", "penalties", "reasoning_effort"]],
  ["sglang", ["json_schema", "logit_bias", "penalties", "reasoning_effort"]],
  ["llamacpp", ["json_schema", "logit_bias", "penalties", "tools", "reasoning_effort"]],
]);

/** Whose servers keep the beginnings of prompts apart by a request's `cache_salt`. */
export const SALTED_OWNER = "vllm";

export const FEATURES_AUTO = "auto";
export const FEATURES_NONE = "none";

/** What is wrong with what the operator says; undefined when nothing. */
export function featuresProblem(said: string): string | undefined {
  if (said === FEATURES_AUTO || said === FEATURES_NONE) return undefined;
  const unknown = said.split(",").filter((name) => !isFeature(name));
  if (unknown.length === 0) return undefined;
  const list = unknown.map((name) => `"${name}"`).join(", ");
  return `engine-features: ${list} can't be had of such a server; it is ${FEATURES_AUTO}, ${FEATURES_NONE}, or some of ${UPSTREAM_FEATURES.join(",")}`;
}

export function featuresOf(said: string, owner: string | undefined): readonly UpstreamFeature[] {
  if (said === FEATURES_AUTO) return KNOWN.get(owner ?? "") ?? [];
  if (said === FEATURES_NONE) return [];
  const problem = featuresProblem(said);
  if (problem !== undefined) throw new RbeesError("INVALID_REQUEST", problem);
  return said.split(",").filter(isFeature);
}

function isFeature(name: string): name is UpstreamFeature {
  return (UPSTREAM_FEATURES as readonly string[]).includes(name);
}
