/** A verb of `rbees-pool`, run on another machine: its words go there, its talk and its result come back and are shown here. */
import { createInterface } from "node:readline";
import { AFAR } from "@rbees/contracts/afar";
import { ErrorBody } from "@rbees/contracts/error-body";
import { ERROR_CODES, type ErrorCode, EXIT, RbeesError } from "@rbees/contracts/errors";
import { talkIn } from "@rbees/contracts/talk";
import { conversation } from "@rbees/kit/conversation";
import { VERSION } from "@rbees/kit/version";
import type { Context } from "../context.ts";
import type { Errand } from "../verb.ts";
import { commandLine } from "./quote.ts";
import { type Child, type ConnectOptions, sshMissing, startHere, startThere } from "./ssh.ts";
import { connectionError } from "./ssh-errors.ts";
import { type Target, targetOf } from "./target.ts";

/** What the far side needs to end in good order, such as to stop a worker that was not ready yet. */
const END_MS_MAX = 12_000;
const RESULT_BYTES_MAX = 16_777_216;
const TALK_LINES_KEPT = 20;
/** Of our own making: a shell's 127 may also mean that rbees-pool found no Node. */
const NOT_FOUND_EXIT = 86;
const SSH_FAILED = 255;

/** Where `rbees pool install` puts the program that is not on the path. For `/bin/sh`. */
export const LAUNCHER = '"$HOME"/.local/share/rbees/bin/rbees-pool';
/** Whatever the login shell is, this is read by `/bin/sh`: finds rbees-pool and becomes it. */
const BECOME_POOL = `p=$(command -v rbees-pool) || p=${LAUNCHER}; [ -x "$p" ] || exit ${NOT_FOUND_EXIT}; ${AFAR}=1 exec "$p" "$@"`;

/** The whole command for the other side: `words` arrive as they are. */
export function poolCommand(words: readonly string[]): string {
  return `exec ${commandLine(["/bin/sh", "-c", BECOME_POOL, "rbees-pool", ...words])}`;
}

/** The command line of an errand, as the far rbees-pool parses it. */
export function wordsOf({ words, flags, args }: Pick<Errand, "words" | "flags" | "args">, json: boolean): string[] {
  const given = flags.filter(([flag]) => flag !== "--json" && flag !== "--quiet");
  return [
    ...words,
    ...(json ? ["--json"] : []),
    ...given.map(([flag, value]) => (value === undefined ? flag : `${flag}=${value}`)),
    ...(args.length === 0 ? [] : ["--", ...args]),
  ];
}

export async function carry(context: Context, errand: Errand): Promise<number> {
  if (errand.host === undefined) throw new RbeesError("INVALID_REQUEST", noHost(errand));
  const target = await targetOf(context, errand.host);
  if (errand.render === undefined) {
    const shown = (line: string) => (context.json ? line : (errand.renderLine?.(line, context.io.out_look) ?? line));
    const { exit } = await call(context, target, wordsOf(errand, true), { onLine: (line) => context.io.out(`${shown(line)}\n`) });
    return exit;
  }
  const { exit, out } = await call(context, target, wordsOf(errand, true), { handover: errand.handover });
  const result = parsed(lastLine(out));
  // A format that was asked for by name is no JSON, and is passed on as it is.
  if (result === undefined) context.io.out(out);
  else if (context.json) context.io.out(`${lastLine(out)}\n`);
  else context.io.out(seenFromHere(await errand.render(result, context.io.out_look), target));
  return exit;
}

function noHost({ words }: Errand): string {
  return `Say where: rbees pool ${words.join(" ")} --host HOST. \`rbees pool list\` shows the machines that are registered; for this one, \`rbees-pool ${words.join(" ")}\`.`;
}

/** What comes before it was said by the login shell's own files, such as a greeting. */
export function lastLine(out: string): string {
  return out.trimEnd().split("\n").at(-1) ?? "";
}

function parsed(out: string): unknown {
  try {
    return JSON.parse(out);
  } catch {
    return undefined;
  }
}

export interface Back {
  readonly exit: number;
  readonly out: string;
}

export interface CallOptions extends ConnectOptions {
  /** Gets each line of stdout as it comes; without it, all of stdout is in the answer. */
  onLine?: (line: string) => void;
  /** Written to its stdin, as a line. */
  handover?: string | undefined;
  /** No talk from over there. */
  silent?: boolean;
}

/** Runs rbees-pool on the target. What went wrong there is thrown here, with its exit code. */
export async function call(context: Context, target: Target, words: readonly string[], options: CallOptions = {}): Promise<Back> {
  const { env, programs } = context;
  const child = target.here
    ? startHere({ ...context, env: { ...env, [AFAR]: "1" } }, [...programs.pool, ...words])
    : await startThere(context, target, poolCommand(words), options);
  const talk = new TalkReader(context, target, options.silent ?? false);
  const out = outOf(child, options);
  const { signal } = context;
  const ended = conversation(child, { signal, end_ms_max: END_MS_MAX, handover: options.handover, onTalk: (line) => talk.read(line) });
  const code = await ended.catch((error) => {
    throw sshMissing(error);
  });
  const back: Back = { exit: code ?? SSH_FAILED, out: out() };
  context.progress(undefined);
  context.signal.throwIfAborted();
  if (back.exit === SSH_FAILED && !target.here) throw lostConnection(target, talk);
  if (!talk.greeted) throw notThere(target, back.exit, talk.others);
  if (back.exit === EXIT.done || isResult(back, talk)) return back;
  throw failedThere(target, back, talk);
}

/** A result can mean other than done: the exit code says so, and there is no complaint. */
function isResult({ out }: Back, { complaint }: TalkReader): boolean {
  const found = parsed(lastLine(out));
  return complaint === undefined && typeof found === "object" && found !== null && !ErrorBody.safeParse(found).success;
}

/** What it has printed by the end; where each line is passed on as it comes, only an error. */
function outOf({ stdout }: Child, { onLine }: CallOptions): () => string {
  let out = "";
  if (onLine === undefined) {
    stdout.setEncoding("utf8").on("data", (chunk: string) => {
      if (out.length < RESULT_BYTES_MAX) out += chunk;
    });
  } else {
    createInterface({ input: stdout }).on("line", (line) => {
      if (line.startsWith('{"error":')) out = line;
      else onLine(line);
    });
  }
  return () => out;
}

/** How rbees-pool begins the sentence with which it fails. */
const COMPLAINT = "rbees-pool: ";

/** Shows the far side's talk as if it were ours. */
class TalkReader {
  /** The rbees-pool over there has begun. */
  greeted = false;
  version: string | undefined;
  /** Lines that are not of rbees-pool: of ssh, a shell, or Node. */
  readonly others: string[] = [];
  readonly #context: Context;
  readonly #target: Target;
  readonly #silent: boolean;
  /** Why it failed: told here, once, in our own words. */
  complaint: string | undefined;

  constructor(context: Context, target: Target, silent: boolean) {
    this.#context = context;
    this.#target = target;
    this.#silent = silent;
  }

  read(line: string): void {
    const talk = talkIn(line);
    if (talk === undefined) {
      this.others.push(line);
      if (this.others.length > TALK_LINES_KEPT) this.others.shift();
      return;
    }
    if (talk.rbees === "hello") {
      this.greeted = true;
      this.version = talk.version;
    } else if (talk.rbees === "progress") {
      if (!this.#silent) this.#context.progress(talk.step, talk.detail, talk.share);
    } else if (talk.line.startsWith(COMPLAINT)) {
      this.complaint = talk.line.slice(COMPLAINT.length);
    } else if (!this.#silent) {
      this.#context.say(seenFromHere(talk.line, this.#target));
    }
  }
}

/** Something failed there: the same failure here, with the same exit code. */
class FarError extends RbeesError {
  readonly #exit: number;

  constructor(code: ErrorCode, message: string, exit: number, details: unknown) {
    super(code, message, details === undefined ? {} : { details });
    this.#exit = exit;
  }

  override get exit(): number {
    return this.#exit;
  }
}

function failedThere(target: Target, { exit, out }: Back, talk: TalkReader): RbeesError {
  const { data } = ErrorBody.safeParse(parsed(lastLine(out)));
  const code = ERROR_CODES.find((one) => one === data?.error.code) ?? "CONFLICT";
  const said = data?.error.message ?? talk.complaint ?? `rbees-pool ended with exit code ${exit}.`;
  const other = talk.version === VERSION ? "" : ` ${versionsDiffer(target, talk.version)}`;
  return new FarError(
    code,
    `${target.name}: ${seenFromHere(said, target)}${exit === EXIT.usage && other !== "" ? `.${other}` : ""}`,
    exit,
    data?.error.details,
  );
}

function versionsDiffer({ name }: Target, there: string | undefined): string {
  return `rbees is ${there ?? "of another version"} there and ${VERSION} here; \`rbees pool upgrade --host ${name}\` makes them the same.`;
}

function lostConnection(target: Target, talk: TalkReader): RbeesError {
  if (!talk.greeted && talk.others.length > 0) return connectionError(target, talk.others.join("\n"));
  return new RbeesError("UNREACHABLE", `The connection to ${target.name} broke; what ran there is being ended. Try again when it is back.`);
}

function notThere(target: Target, exit: number, others: readonly string[]): RbeesError {
  const install = `\`rbees pool install --host ${target.name}\``;
  if (exit === NOT_FOUND_EXIT) {
    return new RbeesError("NOT_FOUND", `There is no rbees-pool on ${target.name}: ${install} brings it there, over this same connection.`);
  }
  const old = others.find((line) => line.includes("needs Node.js"));
  if (old !== undefined) return new RbeesError("CONFLICT", `${target.name}: ${old}`);
  const said = lastWords(others);
  return new RbeesError(
    "CONFLICT",
    `rbees-pool on ${target.name} does not answer as this rbees expects (exit code ${exit}${said === undefined ? "" : `: ${said}`}). It may be too old or damaged: ${install} puts ${VERSION} in its place.`,
  );
}

/** What a program said at its end; of one in Node.js that broke the error, not what Node.js says after it. */
export function lastWords(lines: readonly string[]): string | undefined {
  return lines.findLast((line) => /^\w*Error( \[\w+\])?: /.test(line)) ?? lines.findLast((line) => line.trim() !== "");
}

/** The far side's advice in words that work here. */
function seenFromHere(text: string, { name }: Target): string {
  return text
    .replace(/`rbees-pool ([^`]*)`/g, (_, words: string) => `\`rbees pool ${words} --host ${name}\``)
    .replace(/(: )rbees-pool ([^\n`]*)$/gm, (_, colon: string, words: string) => `${colon}rbees pool ${words} --host ${name}`);
}
