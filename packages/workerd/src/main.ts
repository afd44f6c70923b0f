#!/usr/bin/env node
/** `rbees-workerd`: one model, one port. Exit codes: 0 stopped in order, 1 could not start or go on, 2 wrong flags. */
import { join } from "node:path";
import { EXIT, RbeesError } from "@rbees/contracts/errors";
import { describeFlags, environment, loadConfig } from "@rbees/kit/config";
import { homeOf } from "@rbees/kit/home";
import { createLog } from "@rbees/kit/log";
import { stopOnSignal } from "@rbees/kit/shutdown";
import { nodeTooOld, VERSION } from "@rbees/kit/version";
import { checkConfig, workerdSettings } from "./config.ts";
import { createWorkerd, type Workerd } from "./workerd.ts";

/** Beyond the time that running answers have: leaving the registry, closing connections. */
const STOP_GRACE_MS = 10_000;

function fail(error: unknown, code: number): never {
  const known = error instanceof RbeesError;
  process.stderr.write(
    `rbees-workerd: ${known ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
  );
  process.exit(known ? code : EXIT.bug);
}

async function main(argv: readonly string[]): Promise<void> {
  const old = nodeTooOld(process.versions.node);
  if (old !== undefined) fail(new RbeesError("INVALID_REQUEST", old), EXIT.failed);
  if (argv.includes("--help") || argv.includes("-h")) {
    process.stdout.write(
      `Usage: rbees-workerd --model FILE.gguf [flags]\n\nServes one model over HTTP.\n\n${describeFlags(workerdSettings)}\n`,
    );
    return;
  }
  if (argv.includes("--version")) {
    process.stdout.write(`rbees-workerd ${VERSION}\n`);
    return;
  }
  const env = environment();
  const config = readConfig(argv, env);
  const log = createLog("rbees-workerd", { level: config.log_level, format: config.log_format });
  let worker: Workerd | undefined;
  const stop = stopOnSignal(
    async () => worker?.stop(),
    log,
    config.drain_ms + STOP_GRACE_MS,
    (code) => process.exit(code),
  );
  try {
    worker = await createWorkerd(config, log, env, {
      on_shutdown: stop,
      on_fatal: (error) => fail(error, EXIT.failed),
    });
  } catch (error) {
    fail(error, EXIT.failed);
  }
}

function readConfig(argv: readonly string[], env: ReturnType<typeof environment>) {
  try {
    const file = join(homeOf(env).config, "config.toml");
    const { config, rest } = loadConfig(workerdSettings, { section: "workerd", argv, env, file });
    if (rest.length > 0) throw new RbeesError("INVALID_REQUEST", `"${rest[0]}" is not expected here; --help lists the flags`);
    checkConfig(config);
    return config;
  } catch (error) {
    fail(error, EXIT.usage);
  }
}

await main(process.argv.slice(2));
