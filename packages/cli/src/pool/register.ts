/** Giving a file on this host a name: what the catalogue records of it. */
import { resolve } from "node:path";
import type { PoolModel } from "@rbees/contracts/pool";
import { partsOf } from "@rbees/kit/gguf-split";
import type { Context } from "../context.ts";
import { percent, size } from "../look.ts";
import { register, registrableName } from "./catalogue.ts";
import { checkFile, sha256Of } from "./model-file.ts";

export async function registerFile(context: Context, given: string, file: string, replace: boolean): Promise<PoolModel> {
  const name = registrableName(given);
  const path = resolve(file);
  const { bytes, parts, architecture, quantisation, context_size, license } = await checkFile(path);
  const files: PoolModel["files"] = [];
  let before = 0;
  for (const part of parts > 1 ? partsOf(path) : [path]) {
    let done = 0;
    const sha256 = await sha256Of(part, context.signal, (hashed) => {
      done = hashed;
      context.progress(`hashing ${file}`, `${percent(before + done, bytes)} of ${size(bytes)}`);
    });
    files.push({ path: part, bytes: done, sha256 });
    before += done;
  }
  context.progress(undefined);
  const hashes = files.length > 1 ? { sha256: null, files } : { sha256: files[0]?.sha256 ?? null, files: [] };
  const model = { reference: `file:${path}`, path, bytes, ...hashes, revision: null, architecture, quantisation, context_size, license };
  await register(context, name, model, replace);
  return { name, aliases: [], present: true, ...model };
}
