/** What people call a model that is to be downloaded, taken apart. */
import { isAbsolute } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";

export type Reference =
  | { kind: "hub"; repo: string; revision: string | undefined; file: string | undefined; quantisation: string | undefined }
  | { kind: "web"; url: string }
  | { kind: "file"; path: string };

export const REFERENCE_FORMS =
  "hf:org/repo, hf:org/repo:Q4_K_M, hf:org/repo@revision::file=path.gguf, https://…/file.gguf or file:/path.gguf";
const REFERENCE_CHARACTERS_MAX = 1024;
const HUB = /^hf:(?<repo>[\w.-]+\/[\w.-]+)(?:@(?<revision>[^:\s]+))?(?:::file=(?<file>.+)|:(?<quantisation>[\w.-]+))?$/;

export function isReference(text: string): boolean {
  return /^(hf|https?|file):/i.test(text);
}

export function parseReference(text: string): Reference {
  const wrong = (why: string) => new RbeesError("INVALID_REQUEST", `"${shown(text)}" is no reference to a model: ${why}.`);
  if (text.length > REFERENCE_CHARACTERS_MAX) throw wrong(`it is longer than ${REFERENCE_CHARACTERS_MAX} characters`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
  if (/[\u0000-\u001f\u007f]/.test(text)) throw wrong("it holds control characters");
  if (text.startsWith("file:")) return { kind: "file", path: filePath(text, wrong) };
  if (/^https?:/i.test(text)) {
    if (!URL.canParse(text)) throw wrong("the address can't be read");
    const { username, password, pathname } = new URL(text);
    if (!isDecodable(pathname)) throw wrong("a % in the address stands for no character");
    if (username !== "" || password !== "") throw wrong("a password in an address ends in logs; use a link that needs none");
    if (!/\.gguf$/i.test(pathname)) throw wrong("the address does not end in .gguf");
    return { kind: "web", url: text };
  }
  const { repo, revision, file, quantisation } = HUB.exec(text)?.groups ?? {};
  if (repo === undefined) throw wrong(`write ${REFERENCE_FORMS}`);
  for (const part of [...repo.split("/"), ...(revision ?? "").split("/"), ...(file ?? "").split("/")])
    if (part === ".." || part === ".") throw wrong(`"${part}" leads elsewhere`);
  if (file !== undefined && (file.startsWith("/") || file.includes("\\") || /[?#%]/.test(file)))
    throw wrong("the file must be a path inside the repository");
  if (file !== undefined && !/\.gguf$/i.test(file)) throw wrong("only GGUF files run here");
  return { kind: "hub", repo, revision, file, quantisation };
}

function isDecodable(path: string): boolean {
  try {
    decodeURIComponent(path);
    return true;
  } catch {
    return false;
  }
}

function filePath(text: string, wrong: (why: string) => RbeesError): string {
  const path = text.slice("file:".length).replace(/^\/\/(?=\/)/, "");
  if (!isAbsolute(path)) throw wrong("file: takes an absolute path");
  return path;
}

function shown(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
