/**
 * The far end of `rbees pool … --host`. It is told by its environment that another rbees reads it: then its talk travels as lines of
 * JSON on stderr, and it lives as long as that one holds stdin and is heard there. A connection that broke, or a laptop that was
 * closed, so ends the command as Ctrl-C would.
 */
import type { Readable } from "node:stream";
import type { Talk } from "@rbees/contracts/talk";

const SILENCE_MS_MAX = 30_000;
/** A line of progress at most this often. */
const PROGRESS_MS = 100;

export function farTalk(write: (line: string) => void, version: string) {
  const send = (talk: Talk) => write(`${JSON.stringify(talk)}\n`);
  let step_sent: string | undefined;
  let sent_at = 0;
  send({ rbees: "hello", version });
  return {
    say: (line: string) => send({ rbees: "say", line }),
    progress(step: string | undefined, detail?: string, share?: number) {
      const now = performance.now();
      if (step === step_sent && (step === undefined || now - sent_at < PROGRESS_MS)) return;
      step_sent = step;
      sent_at = now;
      send({ rbees: "progress", step, detail, share });
    },
  };
}

/** Longer is no handover. */
const LINE_CHARS_MAX = 65_536;

/** Calls `lost` when nobody holds the other end of stdin any more. Gives the first line that comes there; the beats are empty ones. */
export function holdOn(stdin: Readable, lost: () => void): Promise<string> {
  const timer = setTimeout(lost, SILENCE_MS_MAX);
  timer.unref();
  return new Promise((resolve) => {
    let text = "";
    let whole = false;
    const end = () => {
      whole = true;
      resolve(text);
    };
    stdin.setEncoding("utf8").on("data", (chunk: string) => {
      timer.refresh();
      if (whole) return;
      text = (text + chunk).trimStart();
      const at = text.indexOf("\n");
      if (at < 0 && text.length < LINE_CHARS_MAX) return;
      text = text.slice(0, at < 0 ? LINE_CHARS_MAX : at);
      end();
    });
    for (const over of ["end", "close", "error"] as const) {
      stdin.on(over, () => {
        end();
        lost();
      });
    }
    stdin.resume();
  });
}
