/** A pool, a fake hub with one small model of a few megabytes, and the two put together. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { contentOf, FakeHub, type FakeRepo } from "../../../test/support/fake-hub.ts";
import { writeGguf } from "./gguf-file.ts";
import { type Bench, bench } from "./harness.ts";

export const COMMIT = "5a".repeat(20);
export const REPO = "Qwen/Qwen2.5-0.5B-Instruct-GGUF";
export const FILE = "qwen2.5-0.5b-instruct-q4_k_m.gguf";

export interface Pool extends Bench {
  hub: FakeHub;
  repo: FakeRepo;
  /** The bytes of the model on the hub. */
  model: Buffer;
  models: (...verb: string[]) => ReturnType<Bench["run"]>;
  /** `models download` with patience that suits a test. */
  download: (...rest: string[]) => ReturnType<Bench["run"]>;
  startDownload: (...rest: string[]) => ReturnType<Bench["start"]>;
}

export const QUICK = ["--stall-ms-max", "1500", "--attempts-max", "3"];

export async function setUp(t: TestContext, { bytes = 3_000_000 }: { bytes?: number } = {}): Promise<Pool> {
  const pool = await bench((clean) => t.after(clean));
  const hub = await FakeHub.start();
  t.after(() => hub.stop());
  await writeGguf(pool.programs.demo_model);
  const model = await modelOf(pool, bytes, 7);
  const repo: FakeRepo = {
    commit: COMMIT,
    license: "apache-2.0",
    files: { "README.md": contentOf(Buffer.from("# Qwen")), [FILE]: contentOf(model) },
  };
  hub.repos.set(REPO, repo);
  const env = { HF_ENDPOINT: hub.url };
  const models: Pool["models"] = (...verb) => pool.run(["rbees-pool", "models", ...verb], { env });
  return {
    ...pool,
    hub,
    repo,
    model,
    models,
    download: (...rest) => models("download", ...rest, ...QUICK),
    startDownload: (...rest) => pool.start(["rbees-pool", "models", "download", ...rest, ...QUICK], env),
  };
}

/** A right header, then bytes that differ from place to place. */
export async function modelOf({ root }: Bench, bytes: number, seed: number): Promise<Buffer> {
  const path = join(root, `made-${seed}.gguf`);
  await writeGguf(path);
  const head = await readFile(path);
  const tail = Buffer.alloc(Math.max(0, bytes - head.length));
  for (let i = 0; i + 4 <= tail.length; i += 4) tail.writeUInt32LE((Math.imul(i + seed, 2_654_435_761) >>> 0) % 4_294_967_295, i);
  return Buffer.concat([head, tail]);
}
