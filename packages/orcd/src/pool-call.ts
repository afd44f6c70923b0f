/** One call of the operator's command line by the orchestrator: its result, or in words why there is none. */
import { spawn } from "node:child_process";
import { AFAR } from "@rbees/contracts/afar";
import { ErrorBody } from "@rbees/contracts/error-body";
import { talkIn } from "@rbees/contracts/talk";
import { environment } from "@rbees/kit/config";
import { conversation } from "@rbees/kit/conversation";

export interface PoolCall {
  readonly ms_max: number;
  readonly signal: AbortSignal;
  /** Goes to its stdin. */
  readonly handover?: string | undefined;
  /** How much of what takes long is done, 0 to 1. */
  readonly onShare?: ((share: number) => void) | undefined;
}

/** The most that a command may print. */
const OUTPUT_BYTES_MAX = 4_194_304;
/** What it needs to end in good order. */
const END_MS_MAX = 15_000;

/** The last line of its stdout; rejects with the reason in words when it ended otherwise than well. */
export async function callPool(command: readonly string[], { ms_max, signal, handover, onShare }: PoolCall): Promise<string> {
  const [program = "", ...words] = command;
  const child = spawn(program, words, { env: { ...environment(), [AFAR]: "1" }, stdio: ["pipe", "pipe", "pipe"] });
  let out = "";
  let said = "";
  const stopped = new AbortController();
  let why: string | undefined;
  const stop = (reason: string) => {
    why ??= reason;
    stopped.abort();
  };
  const onAbort = () => stop("the orchestrator is stopping");
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  const late = setTimeout(() => stop(`it took more than ${ms_max} ms`), ms_max);
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    if (out.length <= OUTPUT_BYTES_MAX) out += chunk;
    else stop(`it printed more than ${OUTPUT_BYTES_MAX} bytes`);
  });
  const onTalk = (line: string) => {
    const talk = talkIn(line);
    if (talk === undefined) said = line.trim() || said;
    else if (talk.rbees === "say") said = talk.line;
    else if (talk.rbees === "progress" && talk.share !== undefined) onShare?.(talk.share);
  };
  try {
    const code = await conversation(child, { signal: stopped.signal, end_ms_max: END_MS_MAX, handover, onTalk });
    const last = out.trimEnd().split("\n").at(-1) ?? "";
    if (code === 0 && why === undefined) return last;
    throw new Error(why ?? reasonIn(last) ?? (said.replace(/^rbees: /, "") || `it ended with exit code ${code}`));
  } finally {
    clearTimeout(late);
    signal.removeEventListener("abort", onAbort);
  }
}

function reasonIn(line: string): string | undefined {
  try {
    return ErrorBody.safeParse(JSON.parse(line)).data?.error.message;
  } catch {
    return undefined;
  }
}
