/**
 * One call of the operator's command line by the orchestrator. It is told that a program called it (`AFAR`): it says how far it is, and
 * ends in good order, with what it had begun, when its stdin does, be it because it is not wanted any more or because we are gone.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { AFAR, BEAT_MS } from "@rbees/contracts/afar";
import { ErrorBody } from "@rbees/contracts/error-body";
import { talkIn } from "@rbees/contracts/talk";
import { environment } from "@rbees/kit/config";

export interface PoolCall {
  readonly ms_max: number;
  readonly signal: AbortSignal;
  /** Goes to its stdin: a secret has no place among words that everybody on the machine can read. */
  readonly handover?: string | undefined;
  /** How much of what takes long is done, 0 to 1. */
  readonly onShare?: ((share: number) => void) | undefined;
}

/** The most that a command may print. */
const OUTPUT_BYTES_MAX = 4_194_304;
/** What it needs to end in good order. */
const END_MS_MAX = 15_000;

/** The last line of its stdout; rejects with the reason in words when it ended otherwise than well. */
export function callPool(command: readonly string[], { ms_max, signal, handover, onShare }: PoolCall): Promise<string> {
  const [program = "", ...words] = command;
  const child = spawn(program, words, { env: { ...environment(), [AFAR]: "1" }, stdio: ["pipe", "pipe", "pipe"] });
  let out = "";
  let said = "";
  let insist: NodeJS.Timeout | undefined;
  let why: string | undefined;
  const stop = (reason: string) => {
    why ??= reason;
    child.stdin.end();
    insist ??= setTimeout(() => child.kill("SIGKILL"), END_MS_MAX);
  };
  const onAbort = () => stop("the orchestrator is stopping");
  const late = setTimeout(() => stop(`it took more than ${ms_max} ms`), ms_max);
  const beats = setInterval(() => child.stdin.write("\n"), BEAT_MS);
  signal.addEventListener("abort", onAbort, { once: true });
  child.stdin.on("error", () => {});
  if (handover !== undefined) child.stdin.write(`${handover}\n`);
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    out += chunk;
    if (out.length > OUTPUT_BYTES_MAX) stop(`it printed more than ${OUTPUT_BYTES_MAX} bytes`);
  });
  createInterface({ input: child.stderr }).on("line", (line) => {
    const talk = talkIn(line);
    if (talk === undefined) said = line.trim() || said;
    else if (talk.rbees === "say") said = talk.line;
    else if (talk.rbees === "progress" && talk.share !== undefined) onShare?.(talk.share);
  });
  return new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      const last = out.trimEnd().split("\n").at(-1) ?? "";
      if (code === 0 && why === undefined) resolve(last);
      else reject(new Error(why ?? reasonIn(last) ?? (said.replace(/^rbees: /, "") || `it ended with exit code ${code}`)));
    });
  }).finally(() => {
    clearTimeout(late);
    clearTimeout(insist);
    clearInterval(beats);
    signal.removeEventListener("abort", onAbort);
  });
}

function reasonIn(line: string): string | undefined {
  try {
    return ErrorBody.safeParse(JSON.parse(line)).data?.error.message;
  } catch {
    return undefined;
  }
}
