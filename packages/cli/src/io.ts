/**
 * The terminal: the only file that writes to stdout and stderr. Data goes to stdout, talk to stderr. Whether there are
 * colours and a status line is decided once, here, from the streams and the environment.
 */
import type { Readable, Writable } from "node:stream";
import type { Environment } from "@rbees/kit/config";
import { createLook, type Look } from "./look.ts";

export interface Io {
  /** Data, as it is. */
  out(text: string): void;
  /** One line of talk. */
  say(line: string): void;
  /** Talk for a program, as it is. */
  talk(text: string): void;
  /**
   * What is going on right now. A terminal shows it on one line that comes and goes; elsewhere each new `step` is a line and
   * `detail` is left out. Undefined: nothing any more. `share`: how much of the step is done, 0 to 1, for a program that reads along.
   */
  progress(step: string | undefined, detail?: string, share?: number): void;
  readonly out_look: Look;
  readonly err_look: Look;
  /** All of stdin as text. */
  read(): Promise<string>;
  /** Calls when stdout takes no more: nobody reads it, or what it is written to is full. */
  onReaderGone(listener: () => void): void;
  /** Everything written has left the process; false: some data could not be written, and that was said. */
  flushed(): Promise<boolean>;
}

type Output = Writable & { isTTY?: boolean; columns?: number };

export interface Streams {
  stdin: Readable;
  stdout: Output;
  stderr: Output;
}

const CLEAR_LINE = "\r\u001b[2K";

export function createIo(streams: Streams, env: Environment): Io {
  // Stdin is opened when it is read: most commands never do.
  const { stdout, stderr } = streams;
  const one_screen = stdout.isTTY === true && stderr.isTTY === true;
  let status = "";
  let step_said = "";
  let reader_gone = false;
  let lost = false;
  const gone: (() => void)[] = [];
  stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (reader_gone) return;
    reader_gone = true;
    if (error.code !== "EPIPE") {
      lost = true;
      clear();
      stderr.write(`The output can't be written (${error.message}): what was written is not all of it.\n`);
    }
    for (const listener of gone) listener();
  });
  stderr.on("error", () => {});

  const clear = () => {
    if (status === "") return;
    status = "";
    stderr.write(CLEAR_LINE);
  };
  return {
    out(text) {
      if (text === "" || reader_gone) return;
      if (one_screen) clear();
      stdout.write(text);
    },
    say(line) {
      clear();
      stderr.write(`${line}\n`);
    },
    talk(text) {
      stderr.write(text);
    },
    progress(step, detail) {
      if (step === undefined) {
        step_said = "";
        return clear();
      }
      if (stderr.isTTY !== true) {
        if (step !== step_said) stderr.write(`${step}\n`);
        step_said = step;
        return;
      }
      const line = fit(detail === undefined ? step : `${step}  ${detail}`, (stderr.columns ?? 80) - 1);
      if (line === status) return;
      stderr.write(`${CLEAR_LINE}${createLook(stderr, env).dim(line)}`);
      status = line;
    },
    out_look: createLook(stdout, env),
    err_look: createLook(stderr, env),
    async read() {
      const chunks: Buffer[] = [];
      for await (const chunk of streams.stdin) chunks.push(Buffer.from(chunk));
      return Buffer.concat(chunks).toString("utf8");
    },
    onReaderGone(listener) {
      gone.push(listener);
    },
    async flushed() {
      clear();
      await Promise.all([stdout, stderr].map((stream) => new Promise<void>((done) => stream.write("", () => done()))));
      return !lost;
    },
  };
}

function fit(line: string, columns: number): string {
  return line.length <= columns ? line : `${line.slice(0, Math.max(0, columns - 1))}…`;
}
