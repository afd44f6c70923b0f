/**
 * What a chat template can do, found out by showing it conversations with words that occur nowhere else: whether it shows tools, their
 * calls and results, in which form it wants arguments, and how its model writes a call.
 */
import { type CallSyntax, syntaxOf, TAGGED } from "./call-syntax.ts";
import { type Conversation, type Renderer, rendered, type TemplateMessage } from "./render.ts";

/** How a call's turn is put for the template. */
export interface CallForm {
  readonly arguments: "object" | "text";
  /** Content of a turn that has only calls. */
  readonly no_content: "" | null;
}

export interface Thinking {
  readonly open: string;
  readonly close: string;
}

export interface TemplateFacts {
  /** How the model calls; undefined: the template shows it no tools, or in a way that is not known here. */
  readonly syntax: CallSyntax | undefined;
  readonly form: CallForm;
  /** Calls are shown one a turn only. */
  readonly one_call_a_turn: boolean;
  /** It shows system messages. */
  readonly system: boolean;
  /** It shows each of several, wherever they stand. */
  readonly systems: boolean;
  readonly thinking: Thinking | undefined;
}

const NAME = "needle_function";
const ARGUMENT = "needle_argument";
const VALUE = "needle_value";
const RESULT = "needle_result";
const SYSTEM = "needle_system";
const ID = "needle001";
const TOOLS = [
  {
    type: "function",
    function: {
      name: NAME,
      description: "needle_description",
      parameters: { type: "object", properties: { [ARGUMENT]: { type: "string", description: "needle_meaning" } }, required: [ARGUMENT] },
    },
  },
];
const ARGUMENTS = new RegExp(`\\{\\s*"${ARGUMENT}":\\s*"${VALUE}"\\s*\\}`);
const TAGS = new RegExp(`<function=${NAME}>\\s*<parameter=${ARGUMENT}>\\s*${VALUE}\\s*</parameter>\\s*</function>\\s*</tool_call>`);
const FORMS: readonly CallForm[] = [
  { arguments: "object", no_content: "" },
  { arguments: "text", no_content: "" },
  { arguments: "object", no_content: null },
  { arguments: "text", no_content: null },
];

/** What encloses thinking, in the templates that mark it. */
const THINKING: readonly Thinking[] = [
  { open: "<think>", close: "</think>" },
  { open: "[THINK]", close: "[/THINK]" },
  { open: "<seed:think>", close: "</seed:think>" },
  { open: "<|START_THINKING|>", close: "<|END_THINKING|>" },
];

const known = new WeakMap<Renderer, TemplateFacts>();

export function templateFacts(model: Renderer): TemplateFacts {
  const facts = known.get(model) ?? findOut(model);
  known.set(model, facts);
  return facts;
}

function findOut(model: Renderer): TemplateFacts {
  const shows = (conversation: Conversation, ...needles: string[]) => {
    const text = rendered(model, conversation);
    return text !== undefined && needles.every((needle) => text.includes(needle));
  };
  const user = { role: "user", content: "hi" };
  const shows_tools = shows({ messages: [user], tools: TOOLS }, NAME);
  const system = shows({ messages: [{ role: "system", content: SYSTEM }, user] }, SYSTEM);
  const places = ["first", "second", "late"].map((place) => ({ role: "system", content: `${SYSTEM}_${place}` }));
  const systems = shows({ messages: [...places.slice(0, 2), user, ...places.slice(2)] }, ...places.map(({ content }) => content));
  const found = shows_tools ? callForm(model) : undefined;
  const [form = { arguments: "object", no_content: "" } as const] = FORMS;
  const thinking = THINKING.find(({ close }) => model.chat_template.includes(close));
  return {
    syntax: found?.syntax,
    form: found?.form ?? form,
    one_call_a_turn: found !== undefined && !shows({ messages: talk(found.form, 2), tools: TOOLS }, RESULT),
    system,
    systems,
    thinking,
  };
}

/** The first form in which arguments come out as JSON, and the result as well. */
function callForm(model: Renderer): { form: CallForm; syntax: CallSyntax | undefined } | undefined {
  for (const form of FORMS) {
    const text = rendered(model, { messages: talk(form, 1), tools: TOOLS });
    if (text === undefined || !text.includes(RESULT)) continue;
    if (TAGS.test(text)) return { form, syntax: TAGGED };
    const at = text.search(ARGUMENTS);
    const name = text.lastIndexOf(NAME, at);
    if (at < 0 || name < 0) continue;
    return { form, syntax: syntaxOf(text.slice(0, name), text.slice(name + NAME.length, at)) };
  }
  return undefined;
}

/** A conversation in which a function was called. */
function talk({ arguments: how, no_content }: CallForm, calls: number): TemplateMessage[] {
  const value = { [ARGUMENT]: VALUE };
  const call = { id: ID, type: "function", function: { name: NAME, arguments: how === "object" ? value : JSON.stringify(value) } };
  const result = { role: "tool", tool_call_id: ID, name: NAME, content: RESULT };
  return [
    { role: "user", content: "hi" },
    { role: "assistant", content: no_content, tool_calls: Array.from({ length: calls }, () => call) },
    ...Array.from({ length: calls }, () => result),
    { role: "assistant", content: "ok" },
    { role: "user", content: "more" },
  ];
}
