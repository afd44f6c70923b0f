/** Counting the tokens of a prompt as a model's own template and tokenizer make them, without an answer. */
import { z } from "zod";
import { ModelName, ONE_OF_TWO, oneOfTwo, Prompted, PromptedAttempt, Talk } from "./job.ts";
import { toolProblems } from "./tools.ts";

const with_tokens = z.boolean().default(false).describe("The tokens too, by their numbers in the model's vocabulary");
const { tools, tool_choice } = Talk;

export const TokenizeRequest = z
  .strictObject({
    model: ModelName,
    ...Prompted,
    tools,
    tool_choice,
    with_tokens,
  })
  .refine(oneOfTwo, { ...ONE_OF_TWO, when: ({ value }) => typeof value === "object" && value !== null })
  .refine(({ raw, messages }) => !raw || messages === undefined, { path: ["raw"], message: "needs prompt, not messages" })
  .superRefine((asked, context) => {
    for (const { path, problem } of toolProblems(asked)) context.addIssue({ code: "custom", path: [path], message: problem });
  })
  .meta({ id: "TokenizeRequest" });
export type TokenizeRequest = z.infer<typeof TokenizeRequest>;

/** The same, as it goes to a worker. */
export const Tokenize = z
  .strictObject({
    ...PromptedAttempt,
    tools,
    tool_choice,
    with_tokens,
  })
  .refine(oneOfTwo, ONE_OF_TWO)
  .meta({ id: "Tokenize" });
export type Tokenize = z.infer<typeof Tokenize>;

const counted = {
  tokens_in: z.int().nonnegative().describe("Prompt tokens, as a job with this prompt has them"),
  tokens: z.array(z.int().nonnegative()).optional(),
};
export const Counted = z.object(counted).meta({ id: "Counted" });
export type Counted = z.infer<typeof Counted>;

export const Tokenized = z
  .object({ model: z.string(), worker_id: z.string().describe("Who has counted"), ...counted })
  .meta({ id: "Tokenized" });
