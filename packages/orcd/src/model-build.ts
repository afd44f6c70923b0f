/** Which build of a model a job is computed with: the model's, and that of the LoRA adapter through which it goes. */
import type { RegisterWorker } from "@rbees/contracts/worker";

/** Equal only where both are the same files; undefined where the worker does not say. */
export function buildDigest(
  { model_digest, lora_digests = {} }: Pick<RegisterWorker, "model_digest" | "lora_digests">,
  lora: string | undefined,
): string | undefined {
  if (model_digest === undefined || lora === undefined) return model_digest;
  const adapter = Object.hasOwn(lora_digests, lora) ? lora_digests[lora] : undefined;
  return adapter === undefined ? undefined : `${model_digest} with ${adapter}`;
}
