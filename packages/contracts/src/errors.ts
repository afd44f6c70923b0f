/**
 * The one table of errors: code → HTTP status, exit code, whether a retry can help, title.
 * Everything that names an error (replies, events, exit codes, docs/errors.md) reads this table. It loads nothing else, because
 * every start of a program pays for it; the schemas of what is sent are in error-body.ts.
 */
import type { ErrorBody, FieldProblem } from "./error-body.ts";

export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  busy: 3,
  not_allowed: 4,
  unreachable: 5,
  not_found: 6,
  bug: 70,
  interrupted: 130,
} as const;

interface ErrorRow {
  readonly status: number;
  readonly exit: number;
  readonly retriable: boolean;
  /** The class of error that OpenAI clients branch on. */
  readonly type: string;
  readonly title: string;
}

export const ERRORS = {
  INVALID_REQUEST: row(400, EXIT.usage, false, "invalid_request_error", "The request is not valid"),
  CONTEXT_TOO_LARGE: row(400, EXIT.usage, false, "invalid_request_error", "Prompt and max_tokens exceed the context"),
  UNAUTHORIZED: row(401, EXIT.not_allowed, false, "authentication_error", "A valid key is required"),
  FORBIDDEN: row(403, EXIT.not_allowed, false, "permission_error", "The key does not allow this"),
  NOT_FOUND: row(404, EXIT.not_found, false, "not_found_error", "There is no such thing"),
  MODEL_NOT_FOUND: row(404, EXIT.not_found, false, "not_found_error", "No worker or pool has ever had this model"),
  REQUEST_TIMEOUT: row(408, EXIT.busy, true, "timeout_error", "The request did not arrive in time"),
  CONFLICT: row(409, EXIT.failed, false, "conflict_error", "The request does not fit the present state"),
  GONE: row(410, EXIT.not_found, false, "not_found_error", "It was here and is gone"),
  PAYLOAD_TOO_LARGE: row(413, EXIT.usage, false, "invalid_request_error", "The body is larger than the limit"),
  QUEUE_FULL: row(429, EXIT.busy, true, "rate_limit_error", "The queue is full"),
  RATE_LIMITED: row(429, EXIT.busy, true, "rate_limit_error", "Too many requests"),
  QUOTA_EXCEEDED: row(429, EXIT.busy, true, "insufficient_quota", "The quota is used up"),
  HEADERS_TOO_LARGE: row(431, EXIT.usage, false, "invalid_request_error", "The headers are larger than the limit"),
  CANCELLED: row(499, EXIT.interrupted, false, "cancelled", "The job was cancelled"),
  INTERNAL: row(500, EXIT.bug, false, "server_error", "A bug in rbees"),
  ENGINE_FAILED: row(500, EXIT.failed, true, "server_error", "The inference engine failed"),
  WORKER_LOST: row(502, EXIT.failed, true, "server_error", "The worker was lost and no attempt is left"),
  UNREACHABLE: row(502, EXIT.unreachable, true, "server_error", "The other side can't be reached"),
  ISSUER_UNREACHABLE: row(503, EXIT.unreachable, true, "server_error", "The issuer of tokens can't be asked for its keys"),
  NO_WORKER: row(503, EXIT.busy, true, "overloaded_error", "No worker can take the job now"),
  ALL_SLOTS_BUSY: row(503, EXIT.busy, true, "overloaded_error", "Every slot of the worker is busy"),
  DROPPED: row(503, EXIT.busy, true, "overloaded_error", "The job had to make room in a full queue"),
  SHUTTING_DOWN: row(503, EXIT.busy, true, "overloaded_error", "The program is shutting down"),
  PROTOCOL_MISMATCH: row(503, EXIT.failed, true, "server_error", "Worker and orchestrator are too far apart in version"),
  LAGGED: row(503, EXIT.failed, true, "overloaded_error", "The reader was too slow; resume by event id"),
  DEADLINE_EXCEEDED: row(504, EXIT.failed, false, "timeout_error", "The deadline passed"),
  QUEUE_TIMEOUT: row(504, EXIT.busy, true, "timeout_error", "No worker took the job in time"),
  FIRST_TOKEN_TIMEOUT: row(504, EXIT.failed, true, "timeout_error", "The first token did not come in time"),
  INSUFFICIENT_MEMORY: row(507, EXIT.failed, false, "server_error", "The model does not fit in free memory"),
} as const satisfies Record<string, ErrorRow>;

function row(status: number, exit: number, retriable: boolean, type: string, title: string): ErrorRow {
  return { status, exit, retriable, type, title };
}

export type ErrorCode = keyof typeof ERRORS;
export const ERROR_CODES = Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]];

/** A code that came over a wire: as it is when the table has it, INTERNAL when it is of nobody we know. */
export function knownCode(code: string): ErrorCode {
  return Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : "INTERNAL";
}

interface RbeesErrorOptions {
  details?: unknown;
  retry_after_ms?: number;
  param?: string;
  /** Sent with the refusal. */
  headers?: Readonly<Record<string, string>>;
  cause?: unknown;
}

/** An operating error: something the caller or operator can act on. Bugs are plain `Error`s. */
export class RbeesError extends Error {
  readonly code: ErrorCode;
  readonly details: unknown;
  readonly retry_after_ms: number | undefined;
  readonly param: string | undefined;
  readonly headers: Readonly<Record<string, string>> | undefined;

  constructor(code: ErrorCode, message: string, options: RbeesErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "RbeesError";
    this.code = code;
    this.details = options.details;
    this.retry_after_ms = options.retry_after_ms;
    this.param = options.param;
    this.headers = options.headers;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  get exit(): number {
    return ERRORS[this.code].exit;
  }

  body(correlation_id: string): ErrorBody {
    const { type, retriable } = ERRORS[this.code];
    return {
      error: {
        code: this.code,
        message: this.message,
        type,
        param: this.param ?? null,
        retriable,
        correlation_id,
        ...(this.retry_after_ms === undefined ? {} : { retry_after_ms: Math.ceil(this.retry_after_ms) }),
        ...(this.details === undefined ? {} : { details: this.details }),
      },
    };
  }
}

/** A request with more that is wrong is told of so many. */
const PROBLEMS_MAX = 32;

/** The refusal for a body, query or parameter that does not match its schema. */
export function invalidRequest(problems: FieldProblem[], what = "request"): RbeesError {
  const more = problems.length - PROBLEMS_MAX;
  const told = more > 0 ? [...problems.slice(0, PROBLEMS_MAX), { field: "…", problem: `and ${more} more` }] : problems;
  const listed = told.map(({ field, problem }) => `${field}: ${problem}`).join("; ");
  const first = problems[0]?.field;
  return new RbeesError("INVALID_REQUEST", `The ${what} is not valid: ${listed}`, {
    details: told,
    ...(first === undefined || first === "(body)" ? {} : { param: first }),
  });
}
