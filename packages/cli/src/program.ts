/** A program is a name and its table of verbs. Owns parsing, help, the wording of errors and the exit code. */
import { EXIT, RbeesError } from "@rbees/contracts/errors";
import { systemRefusal } from "@rbees/kit/system-refusal";
import { VERSION } from "@rbees/kit/version";
import { Command, CommanderError, Help } from "commander";
import type { World } from "./context.ts";
import type { Io } from "./io.ts";
import { addGlobals, type Verb } from "./verb.ts";

export interface Program {
  readonly name: string;
  readonly summary: string;
  readonly verbs: readonly Verb[];
  /** What the words between the program and its verbs stand for. */
  readonly groups: Readonly<Record<string, string>>;
  readonly examples: readonly string[];
  /** Whether verbs take `--orchestrator` as a flag of every verb. */
  readonly orchestrator: boolean;
}

/** Runs one command line and gives its exit code. */
export async function runProgram(program: Program, argv: readonly string[], world: World): Promise<number> {
  let exit: number = EXIT.done;
  const completing = argv[0] === "complete" || argv[0] === "completion";
  let at = program.name;
  const root = build(program, world, completing, (code) => {
    exit = code;
  });
  try {
    if (completing) await (await import("./completion.ts")).addCompletion(root, program.verbs, world);
    for (const command of everyCommand(root)) {
      settle(command, world, () => {
        at = `${program.name} ${wordsOf(command)}`.trim();
      });
    }
    await root.parseAsync(helpOfVerbs(root, asFlag(argv)), { from: "user" });
    world.io.progress(undefined);
    return exit;
  } catch (error) {
    world.io.progress(undefined);
    return report(error, { name: program.name, at, json: argv.includes("--json") }, world);
  }
}

/** `rbees help jobs list` is what others would type for `rbees jobs list --help`. */
function asFlag(argv: readonly string[]): string[] {
  const [first, ...words] = argv;
  return first === "help" ? [...words, "--help"] : [...argv];
}

const HELP = ["-h", "--help"];

/** Without the question for help where it asks about a verb that there is not: then that is what has to be said. */
function helpOfVerbs(root: Command, argv: readonly string[]): readonly string[] {
  let at = root;
  for (let i = 0; i < argv.length && at.commands.length > 0; i += 1) {
    const word = argv[i] ?? "";
    if (word.startsWith("-")) {
      if (at.options.some((option) => option.required && [option.long, option.short].includes(word))) i += 1;
      continue;
    }
    const found = at.commands.find((one) => one.name() === word);
    if (found === undefined) return argv.filter((one) => !HELP.includes(one));
    at = found as Command;
  }
  return argv;
}

function build(program: Program, world: World, completing: boolean, ended: (exit: number) => void): Command {
  const root = new Command(program.name).description(program.summary).enablePositionalOptions();
  root.version(VERSION, "-V, --version", "print the version");
  addGlobals(root, program.orchestrator);
  root.addHelpText("after", `\nExamples:\n${program.examples.map((line) => `  ${line}`).join("\n")}`);
  const groups = new Map<string, Command>();
  for (const row of program.verbs) {
    const words = row.path.split(" ").slice(0, -1);
    let parent = root;
    for (const [depth, word] of words.entries()) {
      const path = words.slice(0, depth + 1).join(" ");
      const group = groups.get(path) ?? new Command(word).description(program.groups[path] ?? "");
      if (!groups.has(path)) parent.addCommand(group);
      groups.set(path, group);
      parent = group;
    }
    const command = row.build(world, ended);
    addGlobals(command, program.orchestrator);
    parent.addCommand(command);
  }
  if (!completing) addCompletionStub(root);
  return root;
}

/** Shown in help; when it is called, completion.ts takes its place. */
function addCompletionStub(root: Command): void {
  root.command("completion").argument("<shell>").description("print a completion script for bash, zsh, fish or powershell");
}

/** How a command behaves that all have in common. `onWrong` hears that a command line was wrong for it. */
function settle(command: Command, { io }: World, onWrong: () => void): void {
  command.exitOverride();
  command.helpCommand(false);
  command.configureOutput({
    writeOut: (text) => io.out(text),
    writeErr: (text) => io.say(text.replace(/\n$/, "")),
    // What is wrong with a command line is told by `report`, with everything else that can go wrong.
    outputError: onWrong,
    getOutHasColors: () => io.out_look.bold("x") !== "x",
    getErrHasColors: () => io.err_look.bold("x") !== "x",
  });
  command.helpOption("-h, --help", "show this help");
  command.configureHelp({
    styleTitle: (text) => io.out_look.dim(text),
    styleCommandText: (text) => io.out_look.accent(text),
    styleSubcommandText: (text) => io.out_look.accent(text),
    subcommandTerm: (one) => [wordsOf(one), ...one.registeredArguments.map(usage)].join(" "),
    formatHelp: (of, help) => Help.prototype.formatHelp.call(help, of, listingVerbs(help)),
  });
}

/** People look for verbs, not for groups of verbs: help lists every one below. Guesses and completion go group by group. */
function listingVerbs(help: Help): Help {
  return Object.assign(Object.create(help) as Help, {
    visibleCommands: (of: Command) => everyCommand(of).filter((one) => one !== of && one.commands.length === 0),
  });
}

function usage(argument: { name(): string; required: boolean }): string {
  return argument.required ? `<${argument.name()}>` : `[${argument.name()}]`;
}

function wordsOf(command: Command): string {
  return command.parent === null ? "" : `${wordsOf(command.parent)} ${command.name()}`.trim();
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap((sub) => everyCommand(sub as Command))];
}

interface Called {
  name: string;
  /** The command whose help is of use, such as `rbees jobs submit`. */
  at: string;
  json: boolean;
}

/** Says what went wrong, once, and gives the exit code that means it. */
function report(error: unknown, { name, at, json }: Called, { io, signal }: World): number {
  if (error instanceof CommanderError) return reportUsage(error, { name, at, json }, io);
  if (signal.aborted && isAbort(error)) return EXIT.interrupted;
  const known =
    error instanceof RbeesError
      ? error
      : (systemRefusal(error, "RBEES_HOME chooses another folder.") ?? new RbeesError("INTERNAL", bugSentence(error), { cause: error }));
  if (json) io.out(`${JSON.stringify(known.body(""))}\n`);
  io.say(`${io.err_look.bad(`${name}:`)} ${io.err_look.safe(known.message)}`);
  return known.exit;
}

function reportUsage(error: CommanderError, { name, at, json }: Called, io: Io): number {
  // Help and version were asked for; help in place of a missing verb was not.
  if (error.exitCode === 0) return EXIT.done;
  if (error.code === "commander.help") return EXIT.usage;
  const message = error.message.replace(/^error: /, "").replace(/\n\(/, " (");
  if (json) io.out(`${JSON.stringify(new RbeesError("INVALID_REQUEST", message).body(""))}\n`);
  io.say(`${io.err_look.bad(`${name}:`)} ${message}. See ${at} --help.`.replace(/([.)])\. See/, "$1 See"));
  return EXIT.usage;
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === "AbortError" || (error as NodeJS.ErrnoException).code === "ABORT_ERR");
}

function bugSentence(error: unknown): string {
  const trace = error instanceof Error ? error.stack : String(error);
  return `This is a bug in rbees; please report it with these lines:\n${trace}`;
}
