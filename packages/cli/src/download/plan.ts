/** From a reference to what is to be fetched: files with address, size and hash, at one commit. */
import { basename } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { size } from "../look.ts";
import { type Candidate, candidates, chooseModel, type RepoFile } from "./choose-file.ts";
import type { Reference } from "./reference.ts";
import { RemoteFile } from "./remote-file.ts";
import type { Web } from "./web.ts";

export interface PlannedFile {
  /** The name on this host. */
  name: string;
  url: string;
  bytes: number;
  sha256: string | null;
  etag: string | null;
}

export interface Plan {
  /** As exact as can be: with commit and file. */
  reference: string;
  /** The hub's repository, with the file inside. */
  hub: { repo: string; file: string } | undefined;
  /** The commit. */
  revision: string | null;
  license: string | null;
  bytes: number;
  files: PlannedFile[];
}

const REPO_FILES_MAX = 20_000;
const NAMED_MAX = 12;

export async function planDownload(web: Web, reference: Exclude<Reference, { kind: "file" }>, sha256: string | undefined): Promise<Plan> {
  return reference.kind === "web" ? planWeb(web, reference.url, sha256 ?? null) : planHub(web, reference);
}

async function planWeb(web: Web, url: string, sha256: string | null): Promise<Plan> {
  const { bytes, etag } = await new RemoteFile(web, url, sha256 !== null).probe();
  const name = fileName(decodeURIComponent(new URL(url).pathname));
  return { reference: url, hub: undefined, revision: null, license: null, bytes, files: [{ name, url, bytes, sha256, etag }] };
}

async function planHub(web: Web, reference: Extract<Reference, { kind: "hub" }>): Promise<Plan> {
  const { repo } = reference;
  const { modelInfo, listFiles } = await import("@huggingface/hub");
  const at = { hubUrl: web.endpoint, fetch: web.fetch };
  const info = await modelInfo({
    name: repo,
    ...at,
    additionalFields: ["sha", "cardData"],
    ...(reference.revision === undefined ? {} : { revision: reference.revision }),
  });
  const revision = info.sha;
  if (typeof revision !== "string" || !/^[0-9a-f]{7,64}$/.test(revision))
    throw new RbeesError("UNREACHABLE", `${web.endpoint} does not say which commit ${repo} is at; it may be no hub.`);
  const files = new Map<string, RepoFile & { sha256: string | null }>();
  for await (const { type, path, size: bytes, lfs } of listFiles({
    repo: { type: "model", name: repo },
    revision,
    recursive: true,
    ...at,
  })) {
    if (files.size >= REPO_FILES_MAX)
      throw new RbeesError("CONFLICT", `${repo} has more than ${REPO_FILES_MAX} files; name one: hf:${repo}::file=PATH`);
    if (type === "file") files.set(path, { path, bytes: lfs?.size ?? bytes, sha256: lfs?.oid ?? null });
  }
  const chosen = choose(reference, [...files.values()]);
  const license = info.cardData?.license;
  return {
    reference: `hf:${repo}@${revision}::file=${chosen.path}`,
    hub: { repo, file: chosen.path },
    revision,
    license: typeof license === "string" ? license : null,
    bytes: chosen.bytes,
    files: chosen.parts.map((path) => {
      const { bytes = 0, sha256 = null } = files.get(path) ?? {};
      const inside = path.split("/").map(encodeURIComponent).join("/");
      return { name: fileName(path), url: `${web.endpoint}/${repo}/resolve/${revision}/${inside}`, bytes, sha256, etag: null };
    }),
  };
}

/** What a server calls a file ends in folders, tables and terminals here. */
function fileName(path: string): string {
  return basename(path).replace(/[^\w.@+ -]/g, "-");
}

function choose({ repo, file, quantisation }: Extract<Reference, { kind: "hub" }>, files: readonly RepoFile[]): Candidate {
  const models = candidates(files);
  const there = `There ${models.length === 1 ? "is" : "are"}: ${named(models)}`;
  if (file !== undefined) {
    const found = models.find(({ path, parts }) => path === file || parts.includes(file));
    if (found !== undefined) return found;
    throw new RbeesError(
      "NOT_FOUND",
      `${repo} has no file ${file}${/-\d{5}-of-\d{5}\.gguf$/.test(file) ? ", or not all of its parts" : ""}. ${models.length === 0 ? "It has no GGUF file at all." : there}`,
    );
  }
  if (models.length === 0)
    throw new RbeesError("NOT_FOUND", `${repo} has no GGUF file; many models have a second repository whose name ends in -GGUF.`);
  const chosen = chooseModel(models, quantisation);
  if (chosen !== undefined) return chosen;
  const matches = quantisation === undefined ? "several models, and none is the obvious one" : "not exactly one file of that quantisation";
  throw new RbeesError("NOT_FOUND", `${repo} has ${matches}. Name one: hf:${repo}::file=PATH. ${there}`);
}

function named(models: readonly Candidate[]): string {
  const shown = models.slice(0, NAMED_MAX).map(({ path, bytes }) => `${path} (${size(bytes)})`);
  return `${shown.join(", ")}${models.length > NAMED_MAX ? ` and ${models.length - NAMED_MAX} more` : ""}.`;
}
