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
  if (!people) return pino({ ...settings, timestamp: pino.stdTimeFunctions.isoTime }, destination(2));
  const stream = pretty({ destination: 2, ignore: "pid,hostname", translateTime: "HH:MM:ss.l", singleLine: true, sync: true });
  return pino(settings, stream);
}

/** For tests and for one-shot commands. */
export function silentLog(): Log {
  return pino({ level: "silent" });
}
