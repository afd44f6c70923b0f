/**
 * The ways in which models write that they call a function. Which one a model has is told from what its template makes of a call: it
 * shows the model its own earlier calls in the very words in which it shall say the next.
 */

export interface CallSyntax {
  readonly name: string;
  /** What begins a call anywhere in the text. */
  readonly openers: readonly string[];
  /** What may stand behind a call and is no text. */
  readonly closers: readonly string[];
  /**
   * `object`: `{"name": …, "arguments": {…}}`, or an array of such. `named`: the name, one of `between`, the arguments. `tagged`: the name,
   * then each argument between tags.
   */
  readonly form: "object" | "named" | "tagged";
  /** In the form `named`: what stands between the name and its arguments, the longest first. */
  readonly between: readonly RegExp[];
  /** The answer may begin with the object itself, or an array of them, without any opener. */
  readonly bare: boolean;
  /** The prompt ends with an opener: the answer begins with a name. */
  readonly opened: boolean;
  /** In the form `named`: a name that is none, after which text comes. */
  readonly text_name?: string;
  /** What stands before a call's name and behind it, in a template's rendering of one. */
  readonly shape: { readonly before: RegExp; readonly between: RegExp };
}

const OBJECT = String.raw`\s*\[?\s*\{\s*"name":\s*"$`;
const MEMBER = /^",\s*"(arguments|parameters)":\s*$/;

function objects(name: string, opener: string, closers: readonly string[], bare = false): CallSyntax {
  const before = new RegExp(opener.replace(/[[\]|]/g, "\\$&") + OBJECT);
  return { name, openers: [opener], closers, form: "object", between: [], bare, opened: false, shape: { before, between: MEMBER } };
}

/** Without marks of its own: the whole answer is the call. */
export const BARE_JSON: CallSyntax = {
  name: "json",
  openers: ["<|python_tag|>"],
  closers: [";"],
  form: "object",
  between: [],
  bare: true,
  opened: false,
  shape: { before: /(^|[\n>\]])\s*\{\s*"name":\s*"$/, between: MEMBER },
};

/** Each argument between tags: `<function=name> <parameter=key> value </parameter> </function>`, inside a mark of its own. */
export const TAGGED: CallSyntax = {
  name: "tagged",
  openers: ["<tool_call>", "<function="],
  closers: ["</function>", "</tool_call>"],
  form: "tagged",
  between: [],
  bare: false,
  opened: false,
  // No JSON of it is ever rendered: it is told by its tags.
  shape: { before: /(?!)/, between: /(?!)/ },
};

/** In the order in which they are tried: those with marks before the one without. */
export const CALL_SYNTAXES: readonly CallSyntax[] = [
  objects("hermes", "<tool_call>", ["</tool_call>"]),
  objects("tool-calls", "<tool_calls>", ["</tool_calls>"]),
  objects("toolcall", "<TOOLCALL>", ["</TOOLCALL>"]),
  objects("functools", "functools", []),
  objects("mistral", "[TOOL_CALLS]", []),
  {
    name: "mistral-named",
    openers: ["[TOOL_CALLS]"],
    closers: [],
    form: "named",
    between: [/^\[CALL_ID\][A-Za-z0-9_-]*\[ARGS\]/, /^\[ARGS\]/, /^(?=\s*\{)/],
    bare: false,
    opened: false,
    shape: { before: /\[TOOL_CALLS\]$/, between: /^(\[CALL_ID\]\w+)?(\[ARGS\])?$/ },
  },
  {
    name: "function-tag",
    openers: ["<function="],
    closers: ["</function>"],
    form: "named",
    between: [/^>/],
    bare: false,
    opened: false,
    shape: { before: /<function=$/, between: /^>$/ },
  },
  {
    name: "functionary",
    openers: [">>>"],
    closers: [],
    form: "named",
    between: [/^\n/],
    bare: false,
    opened: true,
    text_name: "all",
    shape: { before: />>>$/, between: /^\n$/ },
  },
  TAGGED,
  BARE_JSON,
];

/** The syntax of a call that a template rendered, or undefined for one that is not known. */
export function syntaxOf(before: string, between: string): CallSyntax | undefined {
  return CALL_SYNTAXES.find(({ shape }) => shape.before.test(before) && shape.between.test(between));
}

/** Marks that may be tokens of their own, whose text an answer would otherwise not have. */
export function marksOf({ openers, closers, form }: CallSyntax): string[] {
  return [...openers, ...closers, ...(form === "named" ? ["[CALL_ID]", "[ARGS]"] : [])];
}
