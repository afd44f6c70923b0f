/** Damaged model files: never a crash of the worker, always one clear sentence. */
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { RbeesError } from "@rbees/contracts/errors";
import type { EngineName } from "@rbees/contracts/sets";
import { environment } from "@rbees/kit/config";
import { readGguf } from "@rbees/kit/gguf";
import { type Broken, namedDamage, nanWeights, randomDamage } from "../../../models/fixtures/broken.ts";
import { ANSWER, chain } from "../../../models/fixtures/scripted.ts";
import { EngineProcess } from "../src/engine-process.ts";
import { checkModel } from "../src/model-check.ts";
import { engineOptions, LIBRARIES } from "./engine-options.ts";
import { folder, scripted } from "./support.ts";

const path = scripted("whole", { edges: chain(ANSWER, [" a", " b"]) });
const model = readFileSync(path);
const options = { backend: "cpu", slots: 1, context_size: 256, prefill_chunk_tokens: 64 } as const;

async function check(file: string): Promise<RbeesError | undefined> {
  try {
    await checkModel({ path: file, ...options, available_bytes: 4e9 });
    return undefined;
  } catch (error) {
    assert.ok(error instanceof RbeesError, String(error));
    return error;
  }
}

/** Loads in the engine's process: the refusal, or undefined when it loads after all. */
async function load(file: string, engine: EngineName): Promise<RbeesError | undefined> {
  const child = new EngineProcess(environment());
  try {
    await child.load(engineOptions(file, { engine, slots: 1 }), { progress() {}, step() {} });
    return undefined;
  } catch (error) {
    assert.ok(error instanceof RbeesError, String(error));
    return error;
  } finally {
    await child.end();
  }
}

function assertSentence(error: RbeesError, name: string): void {
  assert.match(error.message, /\.gguf/, name);
  assert.ok(!error.message.includes("\n"), name);
  assert.ok(error.message.length < 1_000, name);
}

function written({ bytes }: Broken, number: number): string {
  const file = join(folder, `damaged-${number}.gguf`);
  writeFileSync(file, bytes);
  return file;
}

test("the whole model passes", async () => {
  assert.equal(await check(path), undefined);
});

test("named damage is named: by the check, or by the engine", async () => {
  const only_engine: string[] = [];
  for (const [i, damage] of namedDamage(model).entries()) {
    const file = written(damage, i);
    let error = await check(file);
    if (error === undefined) {
      only_engine.push(damage.name);
      for (const engine of LIBRARIES) {
        error = await load(file, engine);
        assert.ok(error !== undefined, `${damage.name}: ${engine} loaded it`);
        assertSentence(error, `${damage.name}, ${engine}`);
      }
    } else assertSentence(error, damage.name);
  }
  assert.ok(only_engine.length <= 4, `left to the engine: ${only_engine.join(", ")}`);
});

test("weights that are no numbers are refused, wherever it shows", async () => {
  const file = written(nanWeights(model), 900);
  for (const engine of LIBRARIES) assert.match((await load(file, engine))?.message ?? "", /invalid data|no numbers|nan/i, engine);
});

test("200 random damages: a sentence or a model that loads, never a crash", async () => {
  const { data_offset } = await readGguf(path);
  const damages = randomDamage(model, data_offset, 200, 20_261_121);
  const to_load: { name: string; file: string }[] = [];
  for (const [i, damage] of damages.entries()) {
    const file = written(damage, 1_000 + i);
    const error = await check(file);
    if (error === undefined) to_load.push({ name: damage.name, file });
    else assertSentence(error, damage.name);
  }
  // What passes is either harmless (a letter of a token's text) or something only the engine can tell.
  for (const engine of LIBRARIES) {
    let left = to_load;
    while (left.length > 0) {
      const { refused, loaded } = await loadMany(
        engine,
        left.map(({ file }) => file),
      );
      for (const { file, message } of refused) assertSentence(new RbeesError("ENGINE_FAILED", message), file);
      const died_at = refused.length + loaded;
      if (died_at === left.length) break;
      // The library went down with this one: in the worker that is a sentence too.
      const fatal = left[died_at];
      const error = await load(fatal?.file ?? "", engine);
      assert.ok(error !== undefined, `${fatal?.name}, ${engine}`);
      assertSentence(error, `${fatal?.name}, ${engine}`);
      left = left.slice(died_at + 1);
    }
  }
  assert.ok(to_load.length < damages.length / 2);
});

/** Loads files one after another in one process; as far as it comes. */
async function loadMany(
  engine: EngineName,
  files: readonly string[],
): Promise<{ refused: { file: string; message: string }[]; loaded: number }> {
  const child = fork(new URL("./load-many.ts", import.meta.url), [engine, ...files], { stdio: ["ignore", "ignore", "ignore", "ipc"] });
  const refused: { file: string; message: string }[] = [];
  let loaded = 0;
  child.on("message", ({ file, message }: { file: string; message?: string }) => {
    if (message === undefined) loaded++;
    else refused.push({ file, message });
  });
  await new Promise<void>((resolve) => child.on("close", () => resolve()));
  return { refused, loaded };
}
