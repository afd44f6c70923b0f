/**
 * How likely the tokens of an answer were: what an event says of each of its tokens, and the forms in which OpenAI's APIs say it. All are
 * natural logarithms of the probabilities that the model gave, before anything (temperature, top_p, penalties, a grammar) had a say.
 */
import { z } from "zod";

const Byte = z.int().min(0).max(255);

export const TopLogprob = z.object({
  token: z.string().describe("Its text; of a token without one the name that the vocabulary has for it"),
  logprob: z.number().describe("Natural logarithm of its probability; -9999 where it had none"),
  bytes: z.array(Byte).optional().describe("Its bytes, where they are not those of `token`: part of a character, or none"),
});
export type TopLogprob = z.infer<typeof TopLogprob>;

export const TokenLogprob = TopLogprob.extend({
  top_logprobs: z.array(TopLogprob).describe("The likeliest tokens at this place, the first the likeliest, as many as were asked for"),
}).meta({ id: "TokenLogprob" });
export type TokenLogprob = z.infer<typeof TokenLogprob>;

const OpenaiTopLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(Byte).nullable().describe("Null of a token that stands for no text"),
});
const OpenaiTokenLogprob = OpenaiTopLogprob.extend({ top_logprobs: z.array(OpenaiTopLogprob) });
export type OpenaiTokenLogprob = z.infer<typeof OpenaiTokenLogprob>;

/** Of a chat's choice. */
export const ChatLogprobs = z
  .object({
    content: z.array(OpenaiTokenLogprob).describe("One for each token of the answer, of thinking and calls too"),
    refusal: z.null(),
  })
  .meta({ id: "ChatLogprobs" });
export type ChatLogprobs = z.infer<typeof ChatLogprobs>;

/** Of a completion's choice. */
export const TextLogprobs = z
  .object({
    tokens: z.array(z.string()).describe("`bytes:\\xf0\\x9f` where they are no text by themselves"),
    token_logprobs: z.array(z.number()),
    top_logprobs: z.array(z.record(z.string(), z.number())).describe("The token itself is always among them"),
    text_offset: z.array(z.int().nonnegative()).describe("Where each begins in `text`, in characters"),
  })
  .meta({ id: "TextLogprobs" });
export type TextLogprobs = z.infer<typeof TextLogprobs>;

/** Of a part of type `output_text` of a response, which has no null. */
export const OutputLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(Byte),
  top_logprobs: z.array(z.object({ token: z.string(), logprob: z.number(), bytes: z.array(Byte) })),
});
export type OutputLogprob = z.infer<typeof OutputLogprob>;

/** Of a line of Ollama's API. */
export const OllamaLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(Byte),
  top_logprobs: z.array(z.object({ token: z.string(), logprob: z.number(), bytes: z.array(Byte) })).optional(),
});
export type OllamaLogprob = z.infer<typeof OllamaLogprob>;
