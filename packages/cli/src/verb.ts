/**
 * What a verb is: one row of a program's table, from which its flags, help, completion and exit code come. A row turns
 * flags into options, `run` makes the result, `render` shows it to people; with `--json` the result itself is printed.
 */
import { Command, InvalidArgumentError, type OptionValues } from "@commander-js/extra-typings";
import { EXIT } from "@rbees/contracts/errors";
import type { Command as AnyCommand } from "commander";
import { type Context, createContext, type GlobalFlags, type World } from "./context.ts";
import type { Look } from "./look.ts";

export interface VerbHead {
  /** The words that call it, such as `worker spawn`. */
  readonly path: string;
  readonly summary: string;
  /** Command lines that work when pasted. */
  readonly examples: readonly string[];
}

export interface VerbBody<Args extends unknown[], Options extends OptionValues, Result> {
  readonly run: (context: Context, options: Options, ...args: Args) => Promise<Result>;
  /** The result for people. A verb without it writes its own stdout, because its data come bit by bit. */
  readonly render?: (result: Result, look: Look) => string;
  /** What `--json` prints, when it is not the result itself. */
  readonly json?: (result: Result) => unknown;
  /** The exit code, when a result can mean other than done. */
  readonly exit?: (result: Result) => number;
}

export interface Verb {
  readonly path: string;
  /** The commander command; running it tells `ended` the exit code. */
  build(world: World, ended: (exit: number) => void): AnyCommand;
}

/** A row of the table. `declare` states arguments and flags; their types are those of `run`. */
export function verb<Args extends unknown[], Options extends OptionValues, Result>(
  { path, summary, examples }: VerbHead,
  declare: (command: Command) => Command<Args, Options>,
  { run, render, json = (result) => result, exit }: VerbBody<Args, Options, Result>,
): Verb {
  return {
    path,
    build(world, ended) {
      const command = declare(new Command(path.split(" ").at(-1)).description(summary));
      const untyped = command as unknown as AnyCommand;
      untyped.addHelpText("after", `\nExamples:\n${examples.map((line) => `  ${line}`).join("\n")}`);
      untyped.action(async () => {
        const context = createContext(world, untyped.optsWithGlobals<GlobalFlags>());
        const result = await run(context, command.opts(), ...(untyped.processedArgs as Args));
        context.progress(undefined);
        if (render !== undefined && result !== undefined) {
          context.io.out(context.json ? `${JSON.stringify(json(result))}\n` : render(result, context.io.out_look));
        }
        ended(exit?.(result) ?? EXIT.done);
      });
      return untyped;
    },
  };
}

/** The flags of every verb. */
export function addGlobals(command: AnyCommand, with_orchestrator: boolean): void {
  command.option("--json", "print one JSON value or a line for each, nothing else");
  command.option("-q, --quiet", "no talk: neither progress nor summaries");
  if (with_orchestrator)
    command.option("--orchestrator <url>", "the orchestrator to talk to (default: that of `rbees up`, else http://localhost:8080)");
}

/** Reads a whole number from a flag. */
export function whole(min = 0, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(
        max === Number.MAX_SAFE_INTEGER ? `Give a whole number from ${min}.` : `Give a whole number from ${min} to ${max}.`,
      );
    }
    return value;
  };
}

export const port = whole(1, 65_535);

export function decimal(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("Give a number.");
  return value;
}

/** `k=v` or `k=v,k=v`; the flag may be repeated. */
export function pairs(text: string, before: Record<string, string> | undefined): Record<string, string> {
  const found = { ...before };
  for (const pair of text.split(",")) {
    const at = pair.indexOf("=");
    if (at < 1) throw new InvalidArgumentError("Give key=value.");
    found[pair.slice(0, at)] = pair.slice(at + 1);
  }
  return found;
}

/** A flag that may be repeated. */
export function repeated(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text];
}
