/** What to say to programs that ask for a path that there is not, of which it is known what they want. */

const DOWNLOADS =
  "Models are brought on a worker's machine: rbees-pool models download NAME, then rbees-pool worker spawn cpu --model NAME.";
const REGISTERS = "A model's file gets its name on a worker's machine: rbees-pool models register NAME FILE.";
/** What Ollama's API has beyond models that are there, for which programs have buttons. */
const ON_MACHINES: ReadonlyMap<string, string> = new Map([
  ["pull", DOWNLOADS],
  ["create", REGISTERS],
  ["copy", REGISTERS],
  ["blobs", REGISTERS],
  ["delete", "Models are removed on a worker's machine: rbees-pool worker stop ID, then rbees-pool models delete NAME."],
  ["push", "Models are not given out."],
]);
const OF_OPENAI: ReadonlySet<string> = new Set(["models", "chat", "completions", "embeddings", "responses"]);

export function elsewhere(path: string): string | undefined {
  const [, first = "", second = ""] = path.split("/", 3);
  if (first === "api") return ON_MACHINES.get(second);
  if (OF_OPENAI.has(first)) return "OpenAI's API is under /v1: the base URL ends with that.";
  if (first === "v1" && second === "api") return "Ollama's API is under /api: its URL has no /v1.";
  return undefined;
}
