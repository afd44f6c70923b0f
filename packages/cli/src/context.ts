/** What a verb gets: the terminal, the folders, the programs, and the flags that every verb has. Tests make their own. */
import { resolve } from "node:path";
import { AFAR } from "@rbees/contracts/afar";
import { type Environment, environment } from "@rbees/kit/config";
import { type Home, homeOf } from "@rbees/kit/home";
import { VERSION } from "@rbees/kit/version";
import { farTalk, holdOn } from "./afar.ts";
import { createIo, type Io } from "./io.ts";
import { findPrograms, type Programs } from "./programs.ts";

/** What the process offers; made once by an entry file. */
export interface World {
  readonly io: Io;
  readonly env: Environment;
  readonly home: Home;
  readonly programs: Programs;
  /** Aborts with the first Ctrl-C, and when nobody reads stdout any more. */
  readonly signal: AbortSignal;
  /** Of a program that is called from afar: the first line on its stdin, whose rest only says that somebody is there. */
  readonly first_line?: Promise<string> | undefined;
}

export interface Context extends World {
  readonly json: boolean;
  readonly quiet: boolean;
  /** The value of `--orchestrator`, when it was given. */
  readonly orchestrator: string | undefined;
  /** The value of `--ca`, when it was given. */
  readonly ca?: string | undefined;
  /** Whether `--insecure-no-tls` was given. */
  readonly insecure_no_tls?: boolean;
  /** Talk, unless `--quiet`. */
  say(line: string): void;
  progress(step: string | undefined, detail?: string, share?: number): void;
}

export interface GlobalFlags {
  json?: boolean | undefined;
  quiet?: boolean | undefined;
  orchestrator?: string | undefined;
  ca?: string | undefined;
  insecureNoTls?: boolean | undefined;
}

export function createContext(
  world: World,
  { json = false, quiet = false, orchestrator, ca, insecureNoTls = false }: GlobalFlags,
): Context {
  return {
    ...world,
    json,
    quiet,
    orchestrator,
    ca,
    insecure_no_tls: insecureNoTls,
    say: quiet ? () => {} : world.io.say,
    progress: quiet ? () => {} : world.io.progress,
  };
}

/** What we start has another working folder; it must still find the same home. */
function withAbsoluteHome(env: Environment): Environment {
  const home = env["RBEES_HOME"];
  return home === undefined || home === "" ? env : { ...env, RBEES_HOME: resolve(home) };
}

/** The world of this process. The first signal asks to stop; `end` is called for the second. */
export function processWorld(entry: string, end: () => void): World {
  const { [AFAR]: afar, ...env } = withAbsoluteHome(environment());
  const io: Io = createIo(process, env);
  const stop = new AbortController();
  const onSignal = () => {
    if (stop.signal.aborted) end();
    else stop.abort(new DOMException("interrupted", "AbortError"));
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  io.onReaderGone(() => stop.abort(new DOMException("nobody reads", "AbortError")));
  let first_line: Promise<string> | undefined;
  if (afar !== undefined && afar !== "") {
    Object.assign(
      io,
      farTalk((line) => io.talk(line), VERSION),
    );
    first_line = holdOn(process.stdin, () => stop.abort(new DOMException("nobody is there", "AbortError")));
  }
  return { io, env, home: homeOf(env), programs: findPrograms(entry), signal: stop.signal, first_line };
}
