/**
 * The models of this host: names that everyone knows, the model that ships with the project, and files that were
 * registered. The registered ones live in one JSON file in the data folder.
 */
import { stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { MODEL_NAME } from "@rbees/contracts/job";
import { PoolModel } from "@rbees/contracts/pool";
import { z } from "zod";
import type { World } from "../context.ts";
import { type SharedFile, sharedFile } from "../local/json-file.ts";
import { describeFile } from "./model-file.ts";

export const DEMO = "demo";

interface Known {
  name: string;
  aliases: readonly string[];
  repo: string;
  file: string;
}

/** Names that everyone knows, and the file that each stands for. */
const KNOWN: readonly Known[] = [
  {
    name: "tinyllama",
    aliases: [],
    repo: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
    file: "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
  },
  { name: "qwen-0.5b", aliases: ["qwen"], repo: "Qwen/Qwen2.5-0.5B-Instruct-GGUF", file: "qwen2.5-0.5b-instruct-q4_k_m.gguf" },
  { name: "phi3", aliases: [], repo: "microsoft/Phi-3-mini-4k-instruct-gguf", file: "Phi-3-mini-4k-instruct-q4.gguf" },
  { name: "mistral", aliases: [], repo: "TheBloke/Mistral-7B-Instruct-v0.2-GGUF", file: "mistral-7b-instruct-v0.2.Q4_K_M.gguf" },
];

const Registered = PoolModel.omit({ present: true, aliases: true }).extend({ path: z.string(), registered_at: z.string() });
const CatalogueFile = z.object({ version: z.literal(1), models: z.record(z.string(), Registered) });
type CatalogueFile = z.infer<typeof CatalogueFile>;

function catalogueFile(world: World): SharedFile<CatalogueFile> {
  return sharedFile<CatalogueFile>(join(world.home.data, "catalogue.json"), CatalogueFile, { version: 1, models: {} }, world.io.say);
}

/** Every name this host has heard of: the demo model, the registered ones, the known ones. */
export async function catalogue(world: World): Promise<PoolModel[]> {
  const { models } = await catalogueFile(world).read();
  const registered = await Promise.all(
    Object.values(models)
      .sort((a, b) => a.name.localeCompare(b.name))
      .map(async ({ registered_at: _, ...model }) => ({
        ...model,
        present: await isFile(model.path),
        aliases: [...(KNOWN.find(({ name }) => name === model.name)?.aliases ?? [])],
      })),
  );
  const unregistered = KNOWN.filter(({ name }) => models[name] === undefined).map(absent);
  return [await demo(world), ...registered, ...unregistered];
}

async function demo({ programs }: World): Promise<PoolModel> {
  const path = programs.demo_model;
  const facts = await describeFile(path).catch(() => undefined);
  const nothing = { bytes: null, architecture: null, quantisation: null, context_size: null, license: null };
  const { bytes, architecture, quantisation, context_size, license } = facts ?? nothing;
  return {
    name: DEMO,
    reference: "shipped with rbees",
    present: facts !== undefined,
    path,
    sha256: null,
    aliases: [],
    ...{ bytes, architecture, quantisation, context_size, license },
  };
}

function absent({ name, aliases, repo, file }: Known): PoolModel {
  return {
    name,
    reference: `hf:${repo}::file=${file}`,
    present: false,
    path: null,
    bytes: null,
    sha256: null,
    architecture: null,
    quantisation: null,
    context_size: null,
    license: null,
    aliases: [...aliases],
  };
}

/** What each name that everyone knows is really called. */
function canonical(name: string): string {
  return KNOWN.find(({ aliases }) => aliases.includes(name))?.name ?? name;
}

/** The file to load for a name or a path, and the name under which its worker serves it. */
export async function resolveModel(world: World, given: string): Promise<{ name: string; path: string }> {
  if (/^(hf:|https?:)/.test(given))
    throw new RbeesError("NOT_FOUND", `"${given}" would have to be downloaded. ${registerInstead("<name>")}`);
  const path = given.startsWith("file:") ? given.slice("file:".length) : given;
  if (path !== given || /[/\\]/.test(given) || given.endsWith(".gguf")) {
    const absolute = resolve(path);
    const known = (await catalogue(world)).find((model) => model.name === given || (model.path === absolute && model.present));
    if (known?.path) return { name: known.name, path: known.path };
    if (!(await isFile(absolute))) throw new RbeesError("NOT_FOUND", `There is no file ${absolute}.`);
    return { name: nameOfFile(absolute), path: absolute };
  }
  const name = canonical(given);
  const models = await catalogue(world);
  const model = models.find((one) => one.name === name);
  if (model === undefined) {
    const present = models.filter((one) => one.present).map((one) => one.name);
    throw new RbeesError(
      "MODEL_NOT_FOUND",
      `There is no model "${given}" here; there ${present.length === 1 ? "is" : "are"} ${list(present)}. ${registerInstead(given)}`,
    );
  }
  if (!model.present && model.name === DEMO) {
    throw new RbeesError("MODEL_NOT_FOUND", `The demo model is missing at ${model.path}: this installation is not complete.`);
  }
  if (!model.present && model.path !== null) {
    throw new RbeesError("MODEL_NOT_FOUND", `The file of "${name}" is gone from ${model.path}. ${registerInstead(name)}`);
  }
  if (model.path === null)
    throw new RbeesError("MODEL_NOT_FOUND", `"${name}" is known, but its file is not on this host. ${registerInstead(name)}`);
  return { name, path: model.path };
}

export function registerInstead(name: string): string {
  return `Downloads are not available yet: fetch the GGUF file yourself, then \`rbees-pool models register ${name} FILE.gguf\`.`;
}

/** A model name made from a file's name. */
function nameOfFile(path: string): string {
  const name = basename(path)
    .replace(/\.gguf$/i, "")
    .replace(/[^A-Za-z0-9._:@+-]/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "");
  return name === "" ? "model" : name.slice(0, 256);
}

export async function register(
  world: World,
  given: string,
  model: Omit<PoolModel, "name" | "aliases" | "present" | "path"> & { path: string },
  replace: boolean,
): Promise<void> {
  const name = registrableName(given);
  await catalogueFile(world).update((now) => {
    const before = now.models[name];
    if (before !== undefined && before.sha256 !== model.sha256 && !replace) {
      throw new RbeesError(
        "CONFLICT",
        `"${name}" is already registered for another file, ${before.path}: add --replace, or choose another name.`,
      );
    }
    return { ...now, models: { ...now.models, [name]: { ...model, name, registered_at: new Date().toISOString() } } };
  });
}

export function registrableName(given: string): string {
  const name = canonical(given);
  if (!MODEL_NAME.test(name))
    throw new RbeesError("INVALID_REQUEST", `"${given}" can't be a model's name: use letters, digits and . _ : @ / + -`);
  if (name === DEMO) throw new RbeesError("CONFLICT", `"${DEMO}" is the model that ships with rbees; choose another name.`);
  return name;
}

/** Forgets a name; the file stays where it is. */
export async function unregister(world: World, given: string): Promise<string> {
  const name = canonical(given);
  let path = "";
  await catalogueFile(world).update((now) => {
    const { [name]: gone, ...models } = now.models;
    if (gone === undefined)
      throw new RbeesError("NOT_FOUND", `No file is registered as "${given}". \`rbees-pool models list\` shows which are.`);
    path = gone.path;
    return { ...now, models };
  });
  return path;
}

/** Names that `--model` can take here, for completion. */
export async function modelNames(world: World): Promise<string[]> {
  return (await catalogue(world)).flatMap(({ name, aliases }) => [name, ...aliases]);
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}

function list(names: readonly string[]): string {
  return names.length === 0 ? "none" : names.join(", ");
}
