/** `models verify`: are the files what they were when they came? */
import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolModel } from "@rbees/contracts/pool";
import { canonicalModel } from "@rbees/contracts/sets";
import type { Context } from "../context.ts";
import { percent, size } from "../look.ts";
import { catalogue } from "../pool/catalogue.ts";
import { sha256Of } from "../pool/model-file.ts";

export interface Verified {
  name: string;
  ok: boolean;
  reason: string;
}

export async function verifyModels(context: Context, names: readonly string[]): Promise<Verified[]> {
  const models = await catalogue(context);
  const chosen = names.length === 0 ? models.filter((model) => filesOf(model).length > 0) : names.map((name) => require(models, name));
  const verified: Verified[] = [];
  for (const model of chosen) verified.push(await verify(context, model));
  return verified;
}

function require(models: readonly PoolModel[], name: string): PoolModel {
  const found = models.find((model) => model.name === canonicalModel(name));
  if (found === undefined)
    throw new RbeesError("MODEL_NOT_FOUND", `There is no model "${name}" here. \`rbees-pool models list\` shows those that are.`);
  if (filesOf(found).length === 0)
    throw new RbeesError("CONFLICT", found.path === null ? `"${name}" is not on this host.` : `No hash of "${name}" is known.`);
  return found;
}

function filesOf({ path, bytes, sha256, files }: PoolModel): PoolModel["files"] {
  if (files.length > 0) return files;
  return path === null || bytes === null || sha256 === null ? [] : [{ path, bytes, sha256 }];
}

async function verify(context: Context, model: PoolModel): Promise<Verified> {
  for (const { path, bytes, sha256 } of filesOf(model)) {
    const bad = (reason: string) => ({ name: model.name, ok: false, reason: `${basename(path)} ${reason}` });
    const found = await stat(path).catch(() => undefined);
    if (found === undefined) return bad("is gone");
    if (found.size !== bytes) return bad(`has ${found.size} bytes instead of ${bytes}`);
    const now = await sha256Of(path, context.signal, (done) =>
      context.progress(`hashing ${model.name}`, `${percent(done, bytes)} of ${size(bytes)}`),
    );
    if (now !== sha256) return bad(`has changed: its SHA-256 is ${now} instead of ${sha256}`);
  }
  context.progress(undefined);
  return { name: model.name, ok: true, reason: "as it came" };
}
