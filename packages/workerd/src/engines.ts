/** The engines there are, and which of them computes: the one that was asked for, or the fastest that works here. */
import { RbeesError } from "@rbees/contracts/errors";
import type { Engine, EngineOptions } from "./engine.ts";
import { LlamaEngine } from "./llama/engine.ts";

export interface ChosenEngine {
  engine: Engine;
  /** Why it is not the engine that is usually taken. */
  instead_of?: string;
}

/** The other engine's code is not even loaded. `folder` is where libllama lies, if not where it is installed. */
export async function chooseEngine({ engine, backend }: Pick<EngineOptions, "engine" | "backend">, folder?: string): Promise<ChosenEngine> {
  if (engine === "openai") return { engine: new (await import("./openai/engine.ts")).OpenaiEngine() };
  if (engine === "llama-server") return { engine: new (await import("./llama-server/engine.ts")).LlamaServerEngine() };
  if (engine === "node-llama-cpp") return await nodeLlamaCpp();
  // Its part of a GPU's memory is not worked out here: that the binding does.
  if (engine === "auto" && backend !== "cpu") return await nodeLlamaCpp();
  const { NoLibrary, openLibrary } = await import("./libllama/library.ts");
  try {
    await openLibrary(folder);
  } catch (error) {
    if (!(error instanceof NoLibrary)) throw error;
    if (engine === "auto") return { ...(await nodeLlamaCpp()), instead_of: `libllama can't be called here: ${error.message}` };
    throw new RbeesError("ENGINE_FAILED", `--engine libllama does not work here: ${error.message}. Leave it out, or use node-llama-cpp.`);
  }
  const { loadModel } = await import("./libllama/load.ts");
  return { engine: new LlamaEngine(loadModel) };
}

async function nodeLlamaCpp(): Promise<ChosenEngine> {
  const { loadModel } = await import("./node-llama-cpp/load.ts");
  return { engine: new LlamaEngine(loadModel) };
}
