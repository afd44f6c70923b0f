/** Logs: JSON lines on stderr for machines, readable lines for people. Prompts and answers are never logged. */
import { destination, type Logger, pino } from "pino";
import pretty from "pino-pretty";

export type Log = Logger;
export const LOG_LEVELS = ["silent", "error", "warn", "info", "debug", "trace"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export const LOG_FORMATS = ["auto", "json", "pretty"] as const;
export type LogFormat = (typeof LOG_FORMATS)[number];

export function createLog(program: string, options: { level: LogLevel; format: LogFormat }): Log {
  const people = options.format === "pretty" || (options.format === "auto" && process.stderr.isTTY === true);
  const settings = { name: program, level: options.level, base: { name: program } };
  if (!people) return pino({ ...settings, timestamp: pino.stdTimeFunctions.isoTime }, stderr({ sync: false }));
  const look = { ignore: "pid,hostname", translateTime: "HH:MM:ss.l", singleLine: true };
  return pino(settings, pretty({ destination: stderr({ sync: true }), ...look }));
}

/** What can't be written yet is kept up to here; the rest is dropped. */
const UNWRITTEN_BYTES_MAX = 1_048_576;

/** A log on a disk that is full ends no program: it goes on when there is room. */
function stderr({ sync }: { sync: boolean }): ReturnType<typeof destination> {
  const stream = destination({ dest: 2, minLength: 0, maxLength: UNWRITTEN_BYTES_MAX, sync });
  const { flushSync } = stream;
  // The last lines are written when the program ends: where they can't be, it would try for ever.
  stream.on("error", () => {
    stream.flushSync = () => {};
  });
  stream.on("write", () => {
    stream.flushSync = flushSync;
  });
  return stream;
}

/** For tests and for one-shot commands. */
export function silentLog(): Log {
  return pino({ level: "silent" });
}
