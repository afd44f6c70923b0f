#!/usr/bin/env node
/** `rbees-orcd`: reads the configuration, runs the orchestrator until a signal. The only `process.exit` of this program. */
import { join } from "node:path";
import { EXIT, RbeesError } from "@rbees/contracts/errors";
import { describeConfig, describeFlags, type Environment, environment, loadConfig } from "@rbees/kit/config";
import { type Home, homeOf } from "@rbees/kit/home";
import { createLog } from "@rbees/kit/log";
import { stopOnSignal } from "@rbees/kit/shutdown";
import { systemRefusal } from "@rbees/kit/system-refusal";
import { nodeTooOld, VERSION } from "@rbees/kit/version";
import { settings } from "./config.ts";
import type { Orcd } from "./orcd.ts";

const HELP = `rbees-orcd ${VERSION}: the orchestrator. Admits jobs, queues them, gives them to workers, relays their tokens, keeps the record.

  rbees-orcd [flags]          run
  rbees-orcd keys create NAME --role ROLE[,ROLE] [--expires-days N] [--data-dir DIR]
                              make the first API key, while no orchestrator runs; also: keys list, rotate ID, revoke ID
  rbees-orcd backup FOLDER [--keys-to FOLDER]
                              copy the database, and the keys into a folder of their own, also while an orchestrator runs
  rbees-orcd config [flags]   print the configuration and where each value comes from

Settings come from the flags below, then RBEES_* environment variables (--queue-jobs-max is RBEES_QUEUE_JOBS_MAX),
then [orcd] in config.toml, then the defaults.

${describeFlags(settings)}
`;

/** Further than `drain_ms`: closing the store and the sockets needs a moment too. */
const STOP_MARGIN_MS = 5000;

async function main(argv: readonly string[]): Promise<void> {
  const old = nodeTooOld(process.versions.node);
  if (old !== undefined) throw new RbeesError("CONFLICT", old);
  if (argv.includes("--help") || argv.includes("-h")) return void process.stdout.write(HELP);
  if (argv.includes("--version")) return void process.stdout.write(`rbees-orcd ${VERSION}\n`);
  const env = environment();
  const home = homeOf(env);
  if (argv[0] === "keys") return keys(argv.slice(1), env);
  if (argv[0] === "backup") return backup(argv.slice(1), env);
  const loaded = loadConfig(settings, { section: "orcd", argv, env, file: join(home.config, "config.toml") });
  const [verb, ...more] = loaded.rest;
  if (verb === "config" && more.length === 0) return void process.stdout.write(`${describeConfig(settings, loaded)}\n`);
  if (verb !== undefined) throw new RbeesError("INVALID_REQUEST", `rbees-orcd has no "${verb}"; --help lists what it has.`);
  const { config } = loaded;
  const log = createLog("rbees-orcd", { level: config.log_level, format: config.log_format });
  // Only now: on a Node.js that is too old, the libraries behind it would fail before the sentence above is said.
  const [{ createOrcd }, { brokenStore, databaseIn }] = await Promise.all([import("./orcd.ts"), import("./store/open.ts")]);
  const data_dir = dataFolder(config, home);
  const broken = (error: unknown) => brokenStore(error, databaseIn(data_dir));
  const fatal = (error: unknown) => {
    const reason = broken(error)?.message;
    const said = reason === undefined ? { err: error } : { reason };
    log.fatal(said, "the store failed; ending, so that the next start recovers from what is written");
    process.exit(EXIT.bug);
  };
  const { audit_key, content_key } = keyFiles(config, home);
  const { serverTls, trusted } = await import("@rbees/kit/tls");
  const [tls, ca] = [serverTls(config, home, "orcd"), trusted(config.tls_ca, home)];
  let running: Orcd | undefined;
  if (config.policy_file !== "") {
    const stay = (error: unknown) => log.error({ reason: (error as Error).message }, "the rules stay as they are");
    // Before it is ready: by then the signal must not end it any more.
    process.on("SIGHUP", () => void running?.reloadPolicy().catch(stay));
  }
  const orcd = await createOrcd(config, { log, data_dir, audit_key, content_key, tls, ca, fatal }).catch((error) => {
    throw broken(error) ?? error;
  });
  running = orcd;
  stopOnSignal(
    () => orcd.stop(),
    log,
    config.drain_ms + STOP_MARGIN_MS,
    (code) => process.exit(code),
  );
}

async function keys(argv: readonly string[], env: Environment): Promise<void> {
  const { keySettings, keysCommand } = await import("./keys-command.ts");
  const home = homeOf(env);
  const file = join(home.config, "config.toml");
  const { config, rest } = loadConfig({ ...settings, ...keySettings }, { section: "orcd", argv, env, file });
  process.stdout.write(await keysCommand(rest, { ...config, data_dir: dataFolder(config, home) }));
}

async function backup(argv: readonly string[], env: Environment): Promise<void> {
  const { backupCommand, backupSettings } = await import("./backup-command.ts");
  const home = homeOf(env);
  const file = join(home.config, "config.toml");
  const { config, rest } = loadConfig({ ...settings, ...backupSettings }, { section: "orcd", argv, env, file });
  process.stdout.write(backupCommand(rest, { ...config, ...keyFiles(config, home), data_dir: dataFolder(config, home) }));
}

function keyFiles({ audit_key, content_key }: { audit_key: string; content_key: string }, home: Home) {
  return {
    audit_key: audit_key === "" ? join(home.state, "audit-key.pem") : audit_key,
    content_key: content_key === "" ? join(home.state, "content-key") : content_key,
  };
}

function dataFolder({ data_dir }: { data_dir: string }, home: Home): string {
  return data_dir === "" ? join(home.data, "orcd") : data_dir;
}

main(process.argv.slice(2)).catch((thrown) => {
  // Of what runs later the store's thread and the doors speak for themselves: this is of the start.
  const error =
    thrown instanceof RbeesError ? thrown : systemRefusal(thrown, "See that this user may read and write there, or name another place.");
  if (error === undefined) throw thrown;
  process.stderr.write(`rbees-orcd: ${error.message}\n`);
  process.exit(error.exit === EXIT.bug ? EXIT.bug : error.code === "INVALID_REQUEST" ? EXIT.usage : EXIT.failed);
});
