/** How an error is written on a wire: its schemas, and the wording of what a schema refuses. */
import { z } from "zod";
import type { RbeesError } from "./errors.ts";

/** One problem of a refused request: where (`stop.3`, `max_tokens`) and what to do about it. Never echoes a prompt. */
export const FieldProblem = z.object({ field: z.string(), problem: z.string() });
export type FieldProblem = z.infer<typeof FieldProblem>;

export const ErrorBody = z
  .object({
    error: z.object({
      code: z.string(),
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      retriable: z.boolean(),
      correlation_id: z.string(),
      retry_after_ms: z.number().int().nonnegative().optional(),
      details: z.unknown().optional(),
    }),
  })
  .meta({ id: "Error" });
export type ErrorBody = z.infer<typeof ErrorBody>;

const OllamaError = z.object({ error: z.string() }).meta({ id: "OllamaError" });

/** The forms that an error's body can have: our own, which OpenAI's clients read too, and Ollama's. */
export const ERROR_FORMS = {
  rbees: { schema: ErrorBody, body: (error: RbeesError, correlation_id: string): unknown => error.body(correlation_id) },
  ollama: { schema: OllamaError, body: ({ message }: RbeesError): unknown => ({ error: message }) },
} as const;
export type ErrorForm = keyof typeof ERROR_FORMS;

/** Every problem of a failed parse at once, worded for the sender, in the order of the fields. */
export function fieldProblems(error: z.ZodError): FieldProblem[] {
  return error.issues.flatMap((issue) => {
    const at = issue.path.map(String).join(".");
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => ({ field: at === "" ? key : `${at}.${key}`, problem: "unknown field" }));
    }
    return [{ field: at === "" ? "(body)" : at, problem: issue.message }];
  });
}
