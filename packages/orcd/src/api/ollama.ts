/** Ollama's API: its requests become jobs like any other, their events its lines. */
import { RbeesError } from "@rbees/contracts/errors";
import { type Message, messageOf } from "@rbees/contracts/message";
import { OLLAMA_API_VERSION, OLLAMA_DEFAULTS, type OllamaChatRequest, type OllamaGenerateRequest } from "@rbees/contracts/ollama";
import type { JobHeaders } from "@rbees/contracts/openai";
import type { orcdRoutes } from "@rbees/contracts/routes";
import { canonicalModel } from "@rbees/contracts/sets";
import type { State } from "@rbees/core/state";
import { LINES } from "@rbees/kit/event-stream";
import type { Handlers } from "@rbees/kit/http";
import type { AskedJob } from "../active-job.ts";
import { namedModel, namesFor } from "../adapters.ts";
import { type Asked, callerOf } from "../caller.ts";
import { ollamaLogprobs } from "../logprob-forms.ts";
import { type OllamaMore, type OllamaShape, OllamaStream, ollamaCalls, ollamaEnd, ollamaText } from "../ollama-stream.ts";
import { admit } from "./admit.ts";
import {
  ANY_OBJECT,
  type Asking,
  type DoorPorts,
  effortOfThink,
  fromHeaders,
  kept,
  needsOf,
  seed32,
  stopStrings,
  streamed,
  weighing,
  whole,
} from "./door.ts";
import { toolsOf } from "./openai.ts";

type OllamaRoutes = Pick<
  typeof orcdRoutes,
  "ollamaVersion" | "ollamaTags" | "ollamaRunning" | "ollamaShow" | "ollamaChat" | "ollamaGenerate"
>;

const DETAILS = {
  parent_model: "",
  format: "gguf",
  family: "",
  families: [] as string[],
  parameter_size: "",
  quantization_level: "",
} as const;
/** Ollama's clients put it behind names that have no tag. */
const LATEST = ":latest";
/** Clients say of this one that it never comes. */
const FAR_AWAY = "9999-12-31T23:59:59.000Z";

/** The model by the name that one of Ollama's clients gave it. */
export function ollamaName({ models }: State, name: string): string {
  const bare = canonicalModel(name.endsWith(LATEST) ? name.slice(0, -LATEST.length) : name);
  return models.has(name) || !models.has(bare) ? name : bare;
}

/** The same of a model that somebody has served, and that the asker may use. */
export function knownModel(state: State, name: string, asker: Asked): string {
  const model = ollamaName(state, name);
  if (namesFor(state, callerOf(asker)).includes(model)) return model;
  throw new RbeesError("MODEL_NOT_FOUND", `model "${name}" not found: no worker has ever served it. GET /api/tags lists the models.`);
}

export function ollamaHandlers(ports: DoorPorts): Handlers<OllamaRoutes> {
  const { loop, workers } = ports;
  const { state } = loop;
  const named = (name: string) => ollamaName(state, name);
  const known = (name: string, asker: Asked) => knownModel(state, name, asker);
  const joined = (model: string) => new Date(workers.servedSince(state, namedModel(state, model).model) ?? 0).toISOString();

  async function answer<T extends object>(
    shape: OllamaShape,
    saying: (text: string, more: OllamaMore) => T,
    asked: AskedJob,
    thinks: boolean,
    request: Asking,
  ) {
    const begun = await admit(ports, asked, request);
    const { model } = asked;
    const { submitted_at_ms } = begun.job;
    if (asked.stream) return streamed(ports, begun, (reader) => new OllamaStream(reader, shape, model, submitted_at_ms, thinks), LINES);
    const { text, reasoning, tool_calls, logprobs, last } = await whole(ports, begun, request);
    const more = {
      ...(reasoning === undefined || !thinks ? {} : { thinking: reasoning }),
      ...(tool_calls === undefined ? {} : { tool_calls: ollamaCalls(tool_calls) }),
    };
    const likely = logprobs === undefined ? {} : { logprobs: ollamaLogprobs(logprobs) };
    const json = { model, created_at: new Date().toISOString(), ...saying(text, more), ...ollamaEnd(last, submitted_at_ms), ...likely };
    return { headers: begun.headers, json };
  }
  /** What workers say of the model that they serve. */
  const saidOf = (name: string) => {
    const serving = workers.serving(state, namedModel(state, name).model);
    const size = serving.find(({ model_bytes }) => model_bytes !== undefined)?.model_bytes ?? 0;
    const digest = serving.find(({ model_digest }) => model_digest !== undefined)?.model_digest ?? "";
    return { serving, size, digest };
  };
  /** Nothing is asked of the model: clients do so to have it loaded. */
  const present = (name: string, asker: Asked) => ({
    model: known(name, asker),
    created_at: new Date().toISOString(),
    done: true,
    done_reason: "load" as const,
  });

  return {
    ollamaVersion: () => ({ json: { version: OLLAMA_API_VERSION } }),
    ollamaTags(request) {
      const models = namesFor(state, callerOf(request)).map((name) => {
        const { size, digest } = saidOf(name);
        return { name, model: name, modified_at: joined(name), size, digest, details: DETAILS };
      });
      return { json: { models } };
    },
    ollamaRunning(request) {
      const models = namesFor(state, callerOf(request)).flatMap((name) => {
        const { serving, size, digest } = saidOf(name);
        if (serving.length === 0) return [];
        const size_vram = serving.some(({ backend }) => backend !== "cpu") ? size : 0;
        const context_length = Math.max(0, ...serving.map(({ context_size }) => context_size ?? 0));
        return { name, model: name, size, digest, details: DETAILS, expires_at: FAR_AWAY, size_vram, context_length };
      });
      return { json: { models } };
    },
    ollamaShow({ body, ...asker }) {
      const model = known((body.model || body.name) as string, asker);
      const serving = workers.serving(state, namedModel(state, model).model);
      const [embeds, thinks] = (["embeddings", "reasoning_effort"] as const).map((feature) =>
        serving.some(({ features }) => features.includes(feature)),
      );
      const contexts = serving.flatMap(({ context_size }) => context_size ?? []);
      return {
        json: {
          modelfile: "",
          parameters: "",
          template: "",
          details: DETAILS,
          // Clients look for the context's length under the architecture's name, which is not known here.
          model_info: contexts.length === 0 ? {} : { "general.architecture": "rbees", "rbees.context_length": Math.max(...contexts) },
          capabilities: ["completion", "tools", ...(embeds ? ["embedding"] : []), ...(thinks ? ["thinking"] : [])],
          modified_at: joined(model),
        },
      };
    },
    ollamaChat(request) {
      const { body, head } = request;
      if (body.messages.length === 0) return { json: { ...present(body.model, request), ...ollamaText.chat("") } };
      const asked = {
        ...generation(ports, named(body.model), body, head),
        messages: conversationOf(body.messages),
        ...toolsOf({ tools: body.tools, reasoning_effort: effortOf(body) }),
        raw: false,
      };
      return answer("chat", ollamaText.chat, asked, body.think !== false, request);
    },
    ollamaGenerate(request) {
      const { body, head } = request;
      if (body.prompt === "") return { json: { ...present(body.model, request), ...ollamaText.generate("") } };
      const { prompt, system, raw } = body;
      const said =
        (system ?? "") === ""
          ? { prompt }
          : {
              messages: [
                { role: "system" as const, content: system as string },
                { role: "user" as const, content: prompt },
              ],
            };
      const talk = toolsOf({ reasoning_effort: effortOf(body) });
      const asked = { ...generation(ports, named(body.model), body, head), ...said, ...talk, raw: raw ?? false };
      return answer("generate", ollamaText.generate, asked, body.think !== false, request);
    },
  };
}

/** Open WebUI has a slider for either, and puts one of them among the options. */
function effortOf({ think, options }: Pick<OllamaChatRequest, "think" | "options">) {
  return effortOfThink(think) ?? (options?.reasoning_effort || undefined);
}

/** Results say whose they are by a name, an id, or nothing: here each gets the id of its call. */
function conversationOf(messages: OllamaChatRequest["messages"]): Message[] {
  let open: { id: string; name: string }[] = [];
  return messages.map(({ role, content, thinking, tool_calls, tool_name, tool_call_id }, at) => {
    if (role !== "tool") {
      const calls = (tool_calls ?? []).map(({ id, function: { name, arguments: given } }, i) => ({
        id: id ?? `call_${at}_${i}`,
        type: "function" as const,
        function: { name, arguments: JSON.stringify(given) },
      }));
      open = [...open, ...calls.map(({ id, function: { name } }) => ({ id, name }))];
      return messageOf(role, { content, reasoning_content: thinking, tool_calls: calls });
    }
    const asked = open.find(({ id, name }) => (tool_call_id ? id === tool_call_id : !tool_name || name === tool_name));
    open = open.filter((call) => call !== asked);
    return messageOf(role, { content, tool_call_id: tool_call_id ?? asked?.id ?? `call_${at}`, name: tool_name });
  });
}

function generation(
  ports: DoorPorts,
  model: string,
  {
    options,
    stream,
    format,
    logprobs,
    top_logprobs,
  }: Pick<OllamaChatRequest & OllamaGenerateRequest, "options" | "stream" | "format" | "logprobs" | "top_logprobs">,
  head: JobHeaders,
) {
  const { temperature, top_k, top_p, min_p, seed, stop, num_predict } = options ?? {};
  const weighed = weighing({ ...options, logit_bias: undefined });
  const max_tokens = (num_predict ?? 0) > 0 ? (num_predict as number) : undefined;
  const json_schema = format === "json" ? ANY_OBJECT : typeof format === "object" ? (format ?? undefined) : undefined;
  return {
    ...fromHeaders(head),
    json_schema,
    ...weighed.asked,
    needs: needsOf({
      ...weighed.fields,
      json_schema: json_schema !== undefined && "format",
      logprobs: logprobs === true && "logprobs",
    }),
    logprobs: logprobs === true ? (top_logprobs ?? 0) : undefined,
    model,
    temperature: temperature ?? OLLAMA_DEFAULTS.temperature,
    ...kept({ top_k: top_k ?? OLLAMA_DEFAULTS.top_k, top_p: top_p ?? OLLAMA_DEFAULTS.top_p }),
    min_p: min_p ?? undefined,
    seed: seed32(seed),
    stop: stopStrings(stop),
    stream: stream ?? true,
    max_tokens: max_tokens ?? ports.v1_max_tokens_default,
    fit_context: true,
    metadata: {},
  };
}
