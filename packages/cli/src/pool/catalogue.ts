/**
 * The models of this host: names that everyone knows, the model that ships with the project, and files that were
 * registered. The registered ones live in one JSON file in the data folder.
 */
import { readdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { MODEL_NAME } from "@rbees/contracts/job";
import { PoolModel } from "@rbees/contracts/pool";
import { aliasesOf, canonicalModel } from "@rbees/contracts/sets";
import type { Home } from "@rbees/kit/home";
import { z } from "zod";
import type { World } from "../context.ts";
import { isReference } from "../download/reference.ts";
import { readJson, type SharedFile, sharedFile, writeJson } from "../local/json-file.ts";
import { describeFile } from "./model-file.ts";

export const DEMO = "demo";

interface Known {
  name: string;
  repo: string;
  file: string;
}

/** Names that everyone knows, and the file that each stands for. */
const KNOWN: readonly Known[] = [
  {
    name: "tinyllama",
    repo: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
    file: "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
  },
  { name: "qwen-0.5b", repo: "Qwen/Qwen2.5-0.5B-Instruct-GGUF", file: "qwen2.5-0.5b-instruct-q4_k_m.gguf" },
  { name: "phi3", repo: "microsoft/Phi-3-mini-4k-instruct-gguf", file: "Phi-3-mini-4k-instruct-q4.gguf" },
  { name: "mistral", repo: "TheBloke/Mistral-7B-Instruct-v0.2-GGUF", file: "mistral-7b-instruct-v0.2.Q4_K_M.gguf" },
];

const Registered = PoolModel.omit({ present: true, aliases: true }).extend({
  path: z.string(),
  registered_at: z.string(),
  // Catalogues of earlier versions know neither.
  revision: PoolModel.shape.revision.default(null),
  files: PoolModel.shape.files.default([]),
});
export type Registered = z.infer<typeof Registered>;
const CatalogueFile = z.object({ version: z.literal(1), models: z.record(z.string(), Registered) });
type CatalogueFile = z.infer<typeof CatalogueFile>;

function catalogueFile(world: World): SharedFile<CatalogueFile> {
  // What was downloaded says so beside it; only the names of registered files are lost with the catalogue.
  const begin = async () => ({
    version: 1 as const,
    models: Object.fromEntries((await downloadsOnDisk(world.home)).map((model) => [model.name, model])),
  });
  return sharedFile<CatalogueFile>(join(world.home.data, "catalogue.json"), CatalogueFile, begin, world.io.say);
}

/** Where downloads go: a folder for each, with a record of what it is. */
export function modelsFolder(home: Home): string {
  return join(home.data, "models");
}

const RECORD = "model.json";

/** Written last: a folder with it is a whole model. */
export async function writeRecord(folder: string, model: Registered): Promise<void> {
  await writeJson(join(folder, RECORD), model);
}

export async function readRecord(folder: string): Promise<Registered | undefined> {
  return readJson(join(folder, RECORD), Registered);
}

async function downloadsOnDisk(home: Home): Promise<Registered[]> {
  const folders = await readdir(modelsFolder(home)).catch(() => []);
  const found = await Promise.all(
    folders.map(async (name) => {
      const folder = join(modelsFolder(home), name);
      const record = await readRecord(folder);
      // The data folder may have moved since.
      const here = (path: string) => join(folder, basename(path));
      return record && { ...record, path: here(record.path), files: record.files.map((file) => ({ ...file, path: here(file.path) })) };
    }),
  );
  return found.filter((model) => model !== undefined).sort((a, b) => a.registered_at.localeCompare(b.registered_at));
}

/** Every name this host has heard of: the demo model, the registered ones, the known ones. */
export async function catalogue(world: World): Promise<PoolModel[]> {
  const { models } = await catalogueFile(world).read();
  const registered = await Promise.all(
    Object.values(models)
      .sort((a, b) => a.name.localeCompare(b.name))
      .map(async ({ registered_at: _, ...model }) => ({
        ...model,
        present: await isHere(model),
        aliases: aliasesOf(model.name),
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
    revision: null,
    files: [],
    aliases: [],
    ...{ bytes, architecture, quantisation, context_size, license },
  };
}

function absent({ name, repo, file }: Known): PoolModel {
  return {
    name,
    reference: `hf:${repo}::file=${file}`,
    present: false,
    path: null,
    bytes: null,
    sha256: null,
    revision: null,
    files: [],
    architecture: null,
    quantisation: null,
    context_size: null,
    license: null,
    aliases: aliasesOf(name),
  };
}

/** The reference of a name that everyone knows. */
export function knownReference(name: string): string | undefined {
  const known = KNOWN.find((one) => one.name === canonicalModel(name));
  return known && absent(known).reference;
}

/** The name that everyone has for a file of a repository. */
export function knownName(repo: string, file: string): string | undefined {
  return KNOWN.find((one) => one.repo === repo && one.file === file)?.name;
}

/** The file to load for a name, a reference or a path, and the name under which its worker serves it. */
export async function resolveModel(world: World, given: string): Promise<{ name: string; path: string }> {
  const models = await catalogue(world);
  if (isReference(given) && !given.startsWith("file:")) {
    const here = models.find(
      (model) => model.present && model.path !== null && (model.reference === given || unpinned(model.reference) === given),
    );
    if (here?.path) return { name: here.name, path: here.path };
    throw new RbeesError("NOT_FOUND", `"${given}" is not on this host. Download it: rbees-pool models download ${given}`);
  }
  const path = given.startsWith("file:") ? given.slice("file:".length) : given;
  if (path !== given || /[/\\]/.test(given) || given.endsWith(".gguf")) {
    const absolute = resolve(path);
    const known = models.find((model) => model.name === given || (model.path === absolute && model.present));
    if (known?.path) return { name: known.name, path: known.path };
    if (!(await isFile(absolute))) throw new RbeesError("NOT_FOUND", `There is no file ${absolute}.`);
    return { name: nameOfFile(absolute), path: absolute };
  }
  const name = canonicalModel(given);
  const model = models.find((one) => one.name === name);
  if (model === undefined) {
    const present = models.filter((one) => one.present).map((one) => one.name);
    throw new RbeesError(
      "MODEL_NOT_FOUND",
      `There is no model "${given}" here; there ${present.length === 1 ? "is" : "are"} ${list(present)}. \`rbees-pool models catalog\` shows what can be downloaded by name; so can hf:org/repo. A file gets a name with \`rbees-pool models register ${given} FILE.gguf\`.`,
    );
  }
  if (model.path !== null && model.present) return { name, path: model.path };
  if (model.name === DEMO) {
    throw new RbeesError("MODEL_NOT_FOUND", `The demo model is missing at ${model.path}: this installation is not complete.`);
  }
  const again = knownReference(name) === undefined ? model.reference : name;
  if (model.path === null)
    throw new RbeesError("MODEL_NOT_FOUND", `"${name}" is known, but not on this host. Download it: rbees-pool models download ${again}`);
  const advice =
    model.files.length > 0 || knownReference(name) !== undefined
      ? `Download it again: rbees-pool models download ${again}`
      : `Register it again: rbees-pool models register ${name} FILE.gguf`;
  throw new RbeesError("MODEL_NOT_FOUND", `The file of "${name}" is gone from ${model.path}. ${advice}`);
}

/** A pinned reference as somebody may have written it who did not care for the commit. */
export function unpinned(reference: string): string {
  return reference.replace(/@[^:]+(?=::file=)/, "");
}

/** A model name made from a file's name. */
export function nameOfFile(path: string): string {
  const name = basename(path)
    .replace(/(-\d{5}-of-\d{5})?\.gguf$/i, "")
    .replace(/[^A-Za-z0-9._:@+-]/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "");
  return name === "" ? "model" : name.slice(0, 256);
}

export async function register(
  world: World,
  given: string,
  model: Omit<Registered, "name" | "registered_at">,
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
  const name = canonicalModel(given);
  if (!MODEL_NAME.test(name))
    throw new RbeesError("INVALID_REQUEST", `"${given}" can't be a model's name: use letters, digits and . _ : @ / + -`);
  if (name === DEMO) throw new RbeesError("CONFLICT", `"${DEMO}" is the model that ships with rbees; choose another name.`);
  return name;
}

/** Forgets a name; the file stays where it is. */
export async function unregister(world: World, given: string): Promise<string> {
  const name = canonicalModel(given);
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

/** All of its files, with the right size where that is known. */
async function isHere({ path, files }: Pick<Registered, "path" | "files">): Promise<boolean> {
  if (files.length === 0) return isFile(path);
  const sizes = await Promise.all(
    files.map((file) =>
      stat(file.path).then(
        ({ size }) => size === file.bytes,
        () => false,
      ),
    ),
  );
  return sizes.every((right) => right);
}

export async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}

function list(names: readonly string[]): string {
  return names.length === 0 ? "none" : names.join(", ");
}
