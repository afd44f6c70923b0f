/** Which of a repository's files is the model that somebody means. */
import { partsOf } from "@rbees/kit/gguf-split";

export interface RepoFile {
  path: string;
  bytes: number;
}

/** A model: its parts in order, nearly always one. */
export interface Candidate {
  /** The path of the first part. */
  path: string;
  parts: string[];
  bytes: number;
  /** As the name says, in capitals; undefined when it says nothing. */
  quantisation: string | undefined;
}

/** What is taken when nobody says which: four bits a weight, which hardly anybody tells from more. */
const USUAL = "Q4_K_M";

/**
 * Quantisations from coarse to fine, by bits a weight. A file whose name holds none of them is never chosen by quantisation.
 */
export const QUANTISATIONS = [
  ...["TQ1_0", "IQ1_S", "IQ1_M", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "Q2_K", "Q2_K_L", "IQ3_XXS", "IQ3_XS"],
  ...["IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q3_K_XL", "IQ4_XS", "MXFP4", "IQ4_NL", "Q4_0", "Q4_K_S", "Q4_K_M"],
  // Whoever writes no more than this mostly means Q4_K_M.
  ...[
    "Q4_K",
    "Q4",
    "Q4_K_L",
    "Q4_1",
    "Q5_0",
    "Q5_K_S",
    "Q5",
    "Q5_K",
    "Q5_K_M",
    "Q5_K_L",
    "Q5_1",
    "Q6_K",
    "Q6_K_L",
    "Q6",
    "Q8_0",
    "Q8",
    "FP16",
    "F16",
    "BF16",
  ],
  ...["FP32", "F32"],
] as const;
const RANK = new Map<string, number>(QUANTISATIONS.map((name, rank) => [name, rank]));
/** Longest first, so that Q4_K_M is never read as Q4. */
const IN_NAME = new RegExp(`(?:^|[._-])(?:UD-)?(${[...QUANTISATIONS].sort((a, b) => b.length - a.length).join("|")})(?=$|[._-])`, "gi");

export function quantisationIn(path: string): string | undefined {
  const name = path.split("/").at(-1) ?? path;
  const stem = name.replace(/\.gguf$/i, "").replace(/-\d{5}-of-\d{5}$/, "");
  // The last one counts: a name may hold the model's own digits before.
  return [...stem.matchAll(IN_NAME)].at(-1)?.[1]?.toUpperCase();
}

/** The models among the files: split ones put together, incomplete ones and files that are no language model left out. */
export function candidates(files: readonly RepoFile[]): Candidate[] {
  const bytes = new Map(files.map((file) => [file.path, file.bytes]));
  return files
    .filter(({ path }) => /\.gguf$/i.test(path) && !isCompanion(path))
    .map(({ path }) => ({ path, parts: partsOf(path), quantisation: quantisationIn(path) }))
    .filter(({ path, parts }) => parts[0] === path && parts.every((part) => bytes.has(part)))
    .map((model) => ({ ...model, bytes: model.parts.reduce((sum, part) => sum + (bytes.get(part) ?? 0), 0) }));
}

/** Files that lie beside models: projectors of images, matrices of importance, adapters. */
function isCompanion(path: string): boolean {
  return /(^|[/._-])(mmproj|imatrix|lora|adapter)/i.test(path);
}

/**
 * The model meant by `wanted`, a quantisation. Without it: Q4_K_M, else the smallest that is no coarser, else the finest there is;
 * when no name says a quantisation, the only model. Undefined: nothing fits, or several fit equally well.
 */
export function chooseModel(models: readonly Candidate[], wanted: string | undefined): Candidate | undefined {
  if (wanted !== undefined) return only(models.filter(({ quantisation }) => quantisation === wanted.toUpperCase()));
  const usual = models.filter(({ quantisation }) => quantisation === USUAL);
  if (usual.length > 0) return only(usual);
  const rank = ({ quantisation }: Candidate) => RANK.get(quantisation ?? "") ?? -1;
  const known = models.filter((model) => rank(model) >= 0);
  if (known.length === 0) return only(models);
  const finer = known.filter((model) => rank(model) > (RANK.get(USUAL) ?? 0));
  if (finer.length > 0) return finer.reduce((best, model) => (model.bytes < best.bytes ? model : best));
  return known.reduce((best, model) =>
    rank(model) > rank(best) || (rank(model) === rank(best) && model.bytes > best.bytes) ? model : best,
  );
}

/** One, or of several with the same quantisation none: they are different models, and guessing would be wrong. */
function only(models: readonly Candidate[]): Candidate | undefined {
  return models.length === 1 ? models[0] : undefined;
}
