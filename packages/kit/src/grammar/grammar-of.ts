/** The grammar that an answer is held to, as a request says it: in GBNF, or by a JSON schema. */
import { invalidRequest } from "@rbees/contracts/errors";
import type { Tool, ToolChoice } from "@rbees/contracts/tools";
import { NoGrammar, parseGbnf } from "./gbnf.ts";
import { compileSchema } from "./json-schema.ts";

export interface Held {
  readonly grammar?: string | undefined;
  readonly json_schema?: unknown;
  readonly tools?: readonly Tool[] | undefined;
  readonly tool_choice?: ToolChoice | undefined;
}

/**
 * In GBNF; undefined when the answer may be anything. What can't be kept to is refused: of a schema each part with its JSON pointer.
 * `field`: what the request calls it.
 */
export function grammarOf(
  { grammar, json_schema, tools = [], tool_choice }: Held,
  field = grammar === undefined ? "json_schema" : "grammar",
): string | undefined {
  // A call is text too, and the grammar would not let it be said.
  if ((grammar ?? json_schema) !== undefined && tools.length > 0 && tool_choice !== "none")
    throw invalidRequest([{ field, problem: "can't be kept to beside tools" }]);
  if (grammar !== undefined) {
    try {
      parseGbnf(grammar);
    } catch (error) {
      if (error instanceof NoGrammar) throw invalidRequest([{ field, problem: error.message }]);
      throw error;
    }
    return grammar;
  }
  if (json_schema === undefined) return undefined;
  const compiled = compileSchema(json_schema);
  if ("grammar" in compiled) return compiled.grammar;
  throw invalidRequest(
    compiled.problems.map(({ pointer, problem }) => ({ field, problem: `${pointer === "" ? "the schema" : pointer} ${problem}` })),
  );
}
