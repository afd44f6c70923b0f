/**
 * Uses the binding's native samplers again. It makes a new one for each token, and each brings a table over the whole vocabulary:
 * with 150,000 entries that costs as much as a tenth of a small model's step. Where the binding does not let itself be reached,
 * nothing changes but the speed.
 */
import type { Llama } from "node-llama-cpp";

interface NativeSampler {
  applyConfig(config: { temperature: number; seed: number }): void;
  dispose(): void;
}
type NativeSamplerClass = new (model: object) => NativeSampler;

/** A sampler that gets the seed it already has goes on where it was. No request has this one: see `positionSeed`. */
const UNUSED_SEED = 0x8000_0000;

export function poolSamplers(llama: Llama): void {
  const bindings = (llama as unknown as { _bindings?: { AddonSampler?: NativeSamplerClass } })._bindings;
  const Sampler = bindings?.AddonSampler;
  if (bindings === undefined || Sampler === undefined) return;
  const free = new WeakMap<object, NativeSampler[]>();
  const make = (model: object): NativeSampler => {
    const pool = free.get(model) ?? [];
    free.set(model, pool);
    const kept = pool.pop();
    if (kept !== undefined) return kept;
    const sampler = new Sampler(model);
    const keep = () => {
      sampler.applyConfig({ temperature: 1, seed: UNUSED_SEED });
      if (!pool.includes(sampler)) pool.push(sampler);
    };
    Object.defineProperty(sampler, "dispose", { value: keep });
    return sampler;
  };
  bindings.AddonSampler = new Proxy(Sampler, { construct: (_, [model]) => make(model as object) });
}
