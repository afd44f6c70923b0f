/**
 * A condition of a rule: CEL, checked when it is loaded. What it may cost is bounded before it is ever evaluated: it has no loops but those
 * over what is short, no regular expressions, and nothing that makes long texts or lists of short ones.
 */

import type { ASTNode, Environment } from "@marcbachmann/cel-js";
import { WIRE_LIMITS } from "@rbees/contracts/job";
import { areaProblem } from "@rbees/contracts/regions";

export interface Condition {
  /** It asks about the worker, so that there is an answer for each. */
  readonly asks_worker: boolean;
  readonly asks_time: boolean;
  /** Steps of its evaluation at most. */
  readonly cost: number;
  /** Throws when it can't be evaluated, as for a label that the worker has not. */
  holds(context: Record<string, unknown>): boolean;
}

/** What is wrong with a condition, and where in it. */
export interface Flaw {
  readonly message: string;
  readonly at: number;
}

export const CONDITION_CHARS_MAX = 4096;
/** Steps that one condition may take. */
export const CONDITION_COST_MAX = 10_000;
/** Entries of the maps that a condition may walk through: those of a job, and the labels of a worker. */
const OF_JOB = WIRE_LIMITS.metadata_keys_max;
const OF_WORKER = WIRE_LIMITS.worker_labels_max;

const LOOPS: ReadonlySet<string> = new Set(["all", "exists", "exists_one"]);
const FUNCTIONS: ReadonlySet<string> = new Set([
  ...LOOPS,
  "has",
  "size",
  "startsWith",
  "endsWith",
  "contains",
  "lowerAscii",
  "upperAscii",
  "trim",
  "within",
]);

export function compile(environment: Environment, text: string): Condition | Flaw {
  try {
    const parsed = environment.parse(text);
    const bounds = boundsOf(parsed.ast);
    if ("message" in bounds) return bounds;
    const { valid, type, error } = parsed.check();
    if (!valid) return flawOf(error);
    if (type !== "bool") return { message: `A condition is true or false, and this is of type ${type}`, at: 0 };
    return { ...bounds, holds: (context) => parsed(context) === true };
  } catch (error) {
    return flawOf(error);
  }
}

/** What the library says of an error, without the source that it shows with it. */
export function summaryOf(error: unknown): string {
  const { summary, message } = error as Error & { summary?: string };
  return summary ?? message;
}

function flawOf(error: unknown): Flaw {
  return { message: summaryOf(error), at: (error as { range?: { start: number } }).range?.start ?? 0 };
}

function roundsOver(what: ASTNode): number {
  if (what.op === "list") return what.args.length;
  return what.op === "." && what.args[0].op === "id" && what.args[0].args === "job" ? OF_JOB : OF_WORKER;
}

function boundsOf(ast: ASTNode): Omit<Condition, "holds"> | Flaw {
  const names = new Set<string>();
  let flaw: Flaw | undefined;
  const refuse = (message: string, { start }: ASTNode) => {
    if (flaw === undefined || start < flaw.at) flaw = { message, at: start };
    return 0;
  };
  const all = (nodes: readonly ASTNode[]): number => nodes.reduce((sum, node) => sum + steps(node), 0);
  const call = (name: string, node: ASTNode, receiver: ASTNode | undefined, args: readonly ASTNode[]): number => {
    if (!FUNCTIONS.has(name)) {
      const why = name === "matches" ? "Rules know no regular expressions" : `Rules know no function ${name}`;
      return refuse(`${why}; there are ${[...FUNCTIONS].join(", ")}`, node);
    }
    const [, area] = args;
    // Nothing is ever in an area that there is not: the rule would do the opposite of what it says, without a word.
    const unknown = name === "within" && area?.op === "value" && typeof area.args === "string" ? areaProblem(area.args) : undefined;
    if (unknown !== undefined && area !== undefined) return refuse(`within: ${unknown}`, area);
    if (receiver === undefined) return 1 + all(args);
    if (!LOOPS.has(name)) return 1 + steps(receiver) + all(args);
    const rounds = roundsOver(receiver);
    return 1 + steps(receiver) + rounds * (1 + all(args));
  };
  const steps = (node: ASTNode): number => {
    switch (node.op) {
      case "value":
        return 1;
      case "id":
        names.add(node.args);
        return 1;
      case ".":
        return 1 + steps(node.args[0]);
      case "call":
        return call(node.args[0], node, undefined, node.args[1]);
      case "rcall":
        return call(node.args[0], node, node.args[1], node.args[2]);
      case "list":
        return 1 + all(node.args);
      case "!_":
      case "-_":
        return 1 + steps(node.args);
      case "[]":
      case "?:":
      case "||":
      case "&&":
      case "==":
      case "!=":
      case "in":
      case "+":
      case "-":
      case "*":
      case "/":
      case "%":
      case "<":
      case "<=":
      case ">":
      case ">=":
        return 1 + all(node.args);
      default:
        return refuse(`Rules know no ${node.op}`, node);
    }
  };
  const cost = steps(ast);
  if (flaw !== undefined) return flaw;
  if (cost > CONDITION_COST_MAX) return { message: `It may take ${cost} steps, and ${CONDITION_COST_MAX} are allowed`, at: ast.start };
  return { cost, asks_worker: names.has("worker"), asks_time: names.has("time") };
}
