/** llama.cpp's own renderer of chat templates, which node-llama-cpp's addon has: the most faithful one there is. */
import type { PromptModel } from "./prompt.ts";

export interface NativeRenderers {
  AddonJinjaRenderer?: new (template: string) => { render(values: Record<string, unknown>): string };
}

/** Undefined where the addon does not have it: then another one renders. */
export function nativeRenderer({ AddonJinjaRenderer: Renderer }: NativeRenderers): PromptModel["render_native"] {
  if (Renderer === undefined) return undefined;
  const cache = new Map<string, InstanceType<typeof Renderer>>();
  return (template, values) => {
    const renderer = cache.get(template) ?? new Renderer(template);
    cache.set(template, renderer);
    return renderer.render(values);
  };
}
