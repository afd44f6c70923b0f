/** Embeddings: what is asked of a worker, and the two doors that lead to one (OpenAI's and Ollama's, with their field tables). */
import { z } from "zod";
import { type FieldTable, may, refused } from "./field-table.ts";
import { ModelName, TokenNumbers, WIRE_LIMITS } from "./job.ts";
import { JobHeaders } from "./openai.ts";

/** One text, or the numbers of its tokens in the model's vocabulary, taken as they are. */
export const EmbedInput = z.union([z.string().min(1), TokenNumbers], { error: "must be a text that is not empty, or numbers of tokens" });
export type EmbedInput = z.infer<typeof EmbedInput>;

/** One attempt at an embedding job. Each input gets one `embedding` event. */
export const Embed = z
  .strictObject({
    job_id: z.string().min(1).max(128),
    attempt: z.int().positive().default(1),
    inputs: z.array(EmbedInput).min(1).max(WIRE_LIMITS.embed_inputs_max),
    truncate: z.boolean().default(false).describe("Cut inputs that are too long, instead of refusing them"),
    deadline: z.iso.datetime().optional(),
    time_left_ms: z.int().positive().optional().describe("Like `deadline`, for callers whose clock is another"),
  })
  .meta({ id: "Embed" });
export type Embed = z.infer<typeof Embed>;

const Several = z.array(z.string().min(1)).min(1).max(WIRE_LIMITS.embed_inputs_max);
const SeveralTokens = z.array(TokenNumbers).min(1).max(WIRE_LIMITS.embed_inputs_max);
const HOW_MANY = `at most ${WIRE_LIMITS.embed_inputs_max}`;

/** Each form in which OpenAI's API takes its input, made a list. */
const OpenaiInput = z
  .union([z.string().min(1), TokenNumbers, Several, SeveralTokens], {
    error: `must be a text that is not empty, numbers of tokens, or an array of either, ${HOW_MANY}`,
  })
  .transform((input): EmbedInput[] => {
    if (typeof input === "string") return [input];
    return typeof input[0] === "number" ? [input as number[]] : (input as EmbedInput[]);
  });

const dimensions = may(
  z.int().min(1).max(65_536),
  "So many of each vector's first numbers, made a unit vector again. Of use where the model was trained for it",
);

const OPENAI_EMBEDDING_FIELDS = {
  supported: {
    model: ModelName.describe("A name from `GET /v1/models`"),
    input: OpenaiInput.describe(`A text, the numbers of its tokens, or an array of either, ${HOW_MANY}`),
    encoding_format: may(
      z.enum(["float", "base64"]),
      "`float` when not given; `base64`: the vector's 32-bit numbers, the lowest byte first. The official clients ask for it by themselves",
    ),
    dimensions,
    user: may(z.string().max(512), "Kept in the job's metadata as `user`"),
  },
  hints: {},
  refused: {},
} as const satisfies FieldTable;

export const EmbeddingsRequest = z.strictObject(OPENAI_EMBEDDING_FIELDS.supported).meta({ id: "EmbeddingsRequest" });
export type EmbeddingsRequest = z.infer<typeof EmbeddingsRequest>;

export const EMBEDDING_FIELDS = { "POST /v1/embeddings": OPENAI_EMBEDDING_FIELDS } as const satisfies Record<string, FieldTable>;

export const EmbeddingList = z
  .object({
    object: z.literal("list"),
    data: z.array(
      z.object({
        object: z.literal("embedding"),
        index: z.int().nonnegative().describe("Which of the inputs"),
        embedding: z.union([z.array(z.number()), z.string()]).describe("A unit vector, as `encoding_format` says"),
      }),
    ),
    model: z.string(),
    usage: z.object({ prompt_tokens: z.int().nonnegative(), total_tokens: z.int().nonnegative() }),
  })
  .meta({ id: "EmbeddingList" });
export type EmbeddingList = z.infer<typeof EmbeddingList>;

/** As for the other doors; but the vectors are told to nobody but who asked, so that nobody would have them later. */
export const EmbedHeaders = JobHeaders.extend({
  "x-rbees-on-disconnect": z
    .literal("cancel", "must be cancel: vectors are not kept for later")
    .default("cancel")
    .describe("Only `cancel` on the routes of embeddings: their vectors are not kept"),
});

const OF_WORKER = "How a model is loaded, and how it draws tokens, has no say here";
const ollama = {
  model: ModelName.describe("A name from `GET /api/tags`; `:latest` behind it may be left out or added"),
} as const;
const ollamaHints = {
  options: may(z.looseObject({}), OF_WORKER),
  keep_alive: may(z.union([z.string(), z.number()]), "How long an idle model stays is a setting of the orchestrator"),
} as const;

const OLLAMA_EMBED_FIELDS = {
  supported: {
    ...ollama,
    input: z
      .union([z.string(), z.array(z.string().min(1)).max(WIRE_LIMITS.embed_inputs_max)], {
        error: `must be a text, or an array of texts that are not empty, ${HOW_MANY}`,
      })
      .transform((input) => (typeof input === "string" ? (input === "" ? [] : [input]) : input))
      .default([])
      .describe(`A text, or ${HOW_MANY}. None: only whether the model is there`),
    truncate: may(z.boolean(), "True when not given, as Ollama has it: an input that is too long loses its end. False: it is refused"),
    dimensions,
  },
  hints: ollamaHints,
  refused: {},
} as const satisfies FieldTable;

const OLLAMA_EMBEDDINGS_FIELDS = {
  supported: {
    ...ollama,
    prompt: z.string().default("").describe("A text; one that is too long loses its end. Empty: only whether the model is there"),
  },
  hints: ollamaHints,
  refused: { input: refused("that is a field of `POST /api/embed`") },
} as const satisfies FieldTable;

export const OLLAMA_EMBEDDING_FIELDS = {
  "POST /api/embed": OLLAMA_EMBED_FIELDS,
  "POST /api/embeddings": OLLAMA_EMBEDDINGS_FIELDS,
} as const satisfies Record<string, FieldTable>;

export const OllamaEmbedRequest = z
  .strictObject({ ...OLLAMA_EMBED_FIELDS.supported, ...OLLAMA_EMBED_FIELDS.hints })
  .meta({ id: "OllamaEmbedRequest" });

export const OllamaEmbeddingsRequest = z
  .strictObject({ ...OLLAMA_EMBEDDINGS_FIELDS.supported, ...OLLAMA_EMBEDDINGS_FIELDS.hints, ...OLLAMA_EMBEDDINGS_FIELDS.refused })
  .meta({ id: "OllamaEmbeddingsRequest" });

export const OllamaEmbedAnswer = z
  .object({
    model: z.string(),
    embeddings: z.array(z.array(z.number())),
    total_duration: z.number().optional().describe("Nanoseconds"),
    load_duration: z.number().optional(),
    prompt_eval_count: z.int().optional().describe("Tokens of all inputs"),
  })
  .meta({ id: "OllamaEmbedAnswer" });

export const OllamaEmbeddingsAnswer = z.object({ embedding: z.array(z.number()) }).meta({ id: "OllamaEmbeddingsAnswer" });
