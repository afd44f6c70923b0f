/** How an error is written on a wire: its schemas, and the wording of what a schema refuses. */
import { z } from "zod";
import { ERRORS, type ErrorCode, type RbeesError } from "./errors.ts";

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

/** The official client's runner of tools asks for a thread that the server keeps, and goes on without when it reads this. */
const NO_THREADS = "thread_unsupported_request";

const AnthropicError = z
  .object({
    type: z.literal("error"),
    error: z.object({
      type: z.string(),
      message: z.string(),
      details: z.object({
        error_code: z.string().describe(`The code of docs/errors.md, or \`${NO_THREADS}\``),
        unsupported: z.array(z.string()).optional(),
      }),
    }),
    request_id: z.string(),
  })
  .meta({ id: "AnthropicError" });

function anthropicBody({ code, message, details: told }: RbeesError, request_id: string): z.infer<typeof AnthropicError> {
  const threaded =
    z
      .array(FieldProblem)
      .safeParse(told)
      .data?.some(({ field }) => field === "thread") === true;
  const details = threaded ? { error_code: NO_THREADS, unsupported: ["thread"] } : { error_code: code };
  return { type: "error", error: { type: anthropicType(code), message, details }, request_id };
}

/** Mostly the types that we have; these are the others. */
function anthropicType(code: ErrorCode): string {
  if (code === "PAYLOAD_TOO_LARGE") return "request_too_large";
  if (code === "QUOTA_EXCEEDED") return "rate_limit_error";
  const { type } = ERRORS[code];
  return type === "server_error" || type === "cancelled" ? "api_error" : type;
}

export interface FormOfError {
  readonly schema: z.ZodType;
  readonly body: (error: RbeesError, correlation_id: string) => unknown;
  /** The header in which its clients look for the correlation id. */
  readonly id_header?: string;
}

/** The forms that an error's body can have: our own, which OpenAI's clients read too, and those of other APIs. */
export const ERROR_FORMS = {
  rbees: { schema: ErrorBody, body: (error, correlation_id) => error.body(correlation_id), id_header: "x-request-id" },
  ollama: { schema: OllamaError, body: ({ message }) => ({ error: message }) },
  anthropic: { schema: AnthropicError, body: anthropicBody, id_header: "request-id" },
} as const satisfies Record<string, FormOfError>;
export type ErrorForm = keyof typeof ERROR_FORMS;

/** How a strict schema says that it knows no such field. */
export const UNKNOWN_FIELD = "unknown field";

/** Of a name that the sender made up. */
const FIELD_CHARS_MAX = 128;

function clipped(field: string): string {
  return field.length > FIELD_CHARS_MAX ? `${field.slice(0, FIELD_CHARS_MAX)}…` : field;
}

/** Every problem of a failed parse at once, worded for the sender, in the order of the fields. */
export function fieldProblems(error: z.ZodError): FieldProblem[] {
  return error.issues.flatMap((issue) => {
    const at = issue.path.map(String).join(".");
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => ({ field: clipped(at === "" ? key : `${at}.${key}`), problem: UNKNOWN_FIELD }));
    }
    const missing = issue.code === "invalid_type" && issue.message.endsWith("received undefined");
    return [{ field: at === "" ? "(body)" : clipped(at), problem: missing ? `is required (${issue.expected})` : issue.message }];
  });
}
