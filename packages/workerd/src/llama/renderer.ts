/** llama.cpp's own renderer of chat templates, which node-llama-cpp's addon has: the most faithful one there is. */
import { createRequire } from "node:module";
import { join } from "node:path";
import type { Renderer } from "../chat/render.ts";

export interface NativeRenderers {
  AddonJinjaRenderer?: new (template: string) => { render(values: Record<string, unknown>): string };
}

/** Undefined where the addon does not have it: then another one renders. */
export function nativeRenderer({ AddonJinjaRenderer }: NativeRenderers): Renderer["render_native"] {
  if (AddonJinjaRenderer === undefined) return undefined;
  const cache = new Map<string, InstanceType<typeof AddonJinjaRenderer>>();
  return (template, values) => {
    const renderer = cache.get(template) ?? new AddonJinjaRenderer(template);
    cache.set(template, renderer);
    return renderer.render(values);
  };
}

/** node-llama-cpp's addon, for its renderer of templates alone; `folder` may throw that there is none. */
export function addonIn(folder: () => string): NativeRenderers {
  try {
    return createRequire(import.meta.url)(join(folder(), "llama-addon.node")) as NativeRenderers;
  } catch {
    return {};
  }
}
