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

type Render<Result> = (result: Result, look: Look) => string | Promise<string>;

export interface VerbBody<Args extends unknown[], Options extends OptionValues, Result> {
  /** Makes what `--json` prints. `render` must be able to show it after a journey as JSON: the verb may have run elsewhere. */
  readonly run: (context: Context, options: Options, ...args: Args) => Promise<Result>;
  /**
   * The result for people; a promise, where what draws it is loaded when it is needed. A verb without it writes its own stdout,
   * because its data come bit by bit.
   */
  readonly render?: Render<Result>;
  /** One line of such data for people, made from what `--json` prints. */
  readonly renderLine?: (line: string, look: Look) => string;
  /** The exit code, when a result can mean other than done. */
  readonly exit?: (result: Result) => number;
}

export interface Verb extends VerbHead {
  /** The commander command; running it tells `ended` the exit code. */
  build(world: World, ended: (exit: number) => void): AnyCommand;
  /** The same command line, parsed and shown here and run elsewhere: `carry` takes it there. */
  elsewhere(head: VerbHead, carry: (context: Context, errand: Errand) => Promise<number>): Verb;
}

/** A command line that was parsed here and is to run elsewhere. */
export interface Errand {
  /** The words of the verb where it runs. */
  readonly words: readonly string[];
  /** Flags and their values as they were typed, in that order. */
  readonly flags: readonly (readonly [flag: string, value: string | undefined])[];
  readonly args: readonly string[];
  /** Where it shall run, if that was said. */
  readonly host: string | undefined;
  /** What it is told on its stdin, one line. */
  readonly handover?: string | undefined;
  /** Shows the result, which came back as JSON. Undefined: the data come line by line. */
  readonly render: Render<unknown> | undefined;
  readonly renderLine: ((line: string, look: Look) => string) | undefined;
}

/** A row of the table. `declare` states arguments and flags; their types are those of `run`. */
export function verb<Args extends unknown[], Options extends OptionValues, Result>(
  head: VerbHead,
  declare: (command: Command) => Command<Args, Options>,
  { run, render, renderLine, exit }: VerbBody<Args, Options, Result>,
): Verb {
  const made = ({ path, summary, examples }: VerbHead): [Command<Args, Options>, AnyCommand] => {
    const command = declare(new Command(path.split(" ").at(-1)).description(summary));
    const untyped = command as unknown as AnyCommand;
    untyped.addHelpText("after", `\nExamples:\n${examples.map((line) => `  ${line}`).join("\n")}`);
    return [command, untyped];
  };
  return {
    ...head,
    build(world, ended) {
      const [command, untyped] = made(head);
      return untyped.action(async () => {
        const context = createContext(world, untyped.optsWithGlobals<GlobalFlags>());
        const result = await run(context, command.opts(), ...(untyped.processedArgs as Args));
        context.progress(undefined);
        if (render !== undefined && result !== undefined) {
          context.io.out(context.json ? `${JSON.stringify(result)}\n` : await render(result, context.io.out_look));
        }
        ended(exit?.(result) ?? EXIT.done);
      });
    },
    elsewhere: (there, carry) => ({
      ...there,
      build(world, ended) {
        const [, untyped] = made(there);
        const flags: [string, string | undefined][] = [];
        for (const { long, attributeName, name } of untyped.options.map((option) => ({
          long: option.long ?? "",
          attributeName: option.attributeName(),
          name: option.name(),
        }))) {
          if (attributeName === "host") throw new Error(`${head.path}: --host says where a verb runs, and can't mean anything else`);
          untyped.on(`option:${name}`, (value: string | null | undefined) => flags.push([long, value ?? undefined]));
        }
        untyped.option("--host <host>", "the machine: a registered name, an SSH alias or user@host[:port]");
        return untyped.action(async () => {
          const { host, ...globals } = untyped.optsWithGlobals<GlobalFlags & { host?: string }>();
          const words = head.path.split(" ");
          const errand = { words, flags, args: untyped.args, host, render: render as Errand["render"], renderLine };
          ended(await carry(createContext(world, globals), errand));
        });
      },
      elsewhere() {
        throw new Error("what runs elsewhere already can't be sent on");
      },
    }),
  };
}

/** The flags of every verb. */
export function addGlobals(command: AnyCommand, with_orchestrator: boolean): void {
  command.option("--json", "print one JSON value or a line for each, nothing else");
  command.option("-q, --quiet", "no talk: neither progress nor summaries");
  if (!with_orchestrator) return;
  const has = (flag: string) => command.options.some(({ long }) => long === flag);
  if (!has("--orchestrator"))
    command.option("--orchestrator <url>", "the orchestrator to talk to (default: that of `rbees up`, else http://localhost:8080)");
  command.option(
    "--ca <file>",
    "the authority to trust beside the well-known ones (default: ca.pem in the folder tls of the configuration)",
  );
  if (!has("--insecure-no-tls")) command.option("--insecure-no-tls", "send the key in clear too, where nobody on the network listens");
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

export function aboveZero(text: string): number {
  const value = decimal(text);
  if (value <= 0) throw new InvalidArgumentError("Give a number above 0.");
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
