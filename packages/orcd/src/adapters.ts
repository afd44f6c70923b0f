/**
 * LoRA adapters as models of their own, as other servers have them: `demo:sql` is the model `demo` through the adapter `sql`, at every door.
 * Where a model is really called so, that is meant.
 */
import { LORA_NAME } from "@rbees/contracts/job";
import { canonicalModel, LORA_FEATURE } from "@rbees/contracts/sets";
import type { State } from "@rbees/core/state";
import type { AskedJob } from "./active-job.ts";
import { modelsFor } from "./limits.ts";

const MARK = ":";

/** The model, and the adapter if the name is of one. While nobody serves the model it is not known which there are. */
export function namedModel(state: Pick<State, "models" | "fleets">, name: string): { model: string; lora?: string } {
  const at = name.lastIndexOf(MARK);
  if (at < 0 || state.models.has(name)) return { model: name };
  const [model, lora] = [canonicalModel(name.slice(0, at)), name.slice(at + 1)];
  if (!state.models.has(model) || !LORA_NAME.test(lora)) return { model: name };
  const serving = [...(state.fleets.get(model) ?? [])];
  const is_there = serving.length === 0 || serving.some(({ spec }) => spec.features.includes(LORA_FEATURE + lora));
  return is_there ? { model, lora } : { model: name };
}

/** The job as it is carried out. Vectors are made through no adapter. */
export function throughAdapter(state: State, asked: AskedJob): AskedJob {
  return asked.lora !== undefined || asked.inputs !== undefined ? asked : { ...asked, ...namedModel(state, asked.model) };
}

/** What a job's model is called by those who list models. */
export function calledModel({ model, lora }: Pick<AskedJob, "model" | "lora">): string {
  return lora === undefined ? model : `${model}${MARK}${lora}`;
}

/** The models that somebody may ask for, each with the adapters that its workers have now. */
export function namesFor(state: State, whose: Parameters<typeof modelsFor>[1]): string[] {
  return modelsFor(state, whose).flatMap((model) => {
    const features = [...(state.fleets.get(model) ?? [])].flatMap(({ spec }) => spec.features);
    const loras = new Set(features.flatMap((feature) => (feature.startsWith(LORA_FEATURE) ? [feature.slice(LORA_FEATURE.length)] : [])));
    return [model, ...[...loras].sort().map((lora) => calledModel({ model, lora }))];
  });
}
