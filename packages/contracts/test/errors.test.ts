/** The one table of errors, and the one body they leave in. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { ErrorBody, fieldProblems } from "../src/error-body.ts";
import { ERROR_CODES, ERRORS, EXIT, invalidRequest, RbeesError } from "../src/errors.ts";

test("every code has a sane row: a status of an error, an exit code of the table, a type and a title", () => {
  const exits: number[] = Object.values(EXIT);
  assert.deepEqual(ERROR_CODES, Object.keys(ERRORS));
  for (const code of ERROR_CODES) {
    const { status, exit, type, title } = ERRORS[code];
    assert.match(code, /^[A-Z][A-Z_]*[A-Z]$/);
    assert.ok(Number.isInteger(status) && status >= 400 && status <= 599, `${code}: status ${status}`);
    assert.ok(exits.includes(exit) && exit !== EXIT.done, `${code}: exit ${exit}`);
    assert.match(type, /^[a-z_]+$/, code);
    assert.ok(title.length > 5 && !title.endsWith("."), `${code}: ${title}`);
  }
});

test("what is busy can be tried again, and what the caller got wrong can't", () => {
  for (const code of ERROR_CODES) {
    const { status, exit, retriable } = ERRORS[code];
    if (status === 429 || status === 503) assert.equal(retriable, true, code);
    // What did not arrive in time may do so the next time.
    if (status < 429) assert.equal(retriable, status === 408, code);
    if (exit === EXIT.busy) assert.equal(retriable, true, code);
    if (exit === EXIT.usage || exit === EXIT.not_allowed || exit === EXIT.not_found) assert.equal(retriable, false, code);
  }
});

test("the codes that the contract fixes have the status and exit code it gives them", () => {
  const fixed: [keyof typeof ERRORS, number, number][] = [
    ["INVALID_REQUEST", 400, 2],
    ["CONTEXT_TOO_LARGE", 400, 2],
    ["UNAUTHORIZED", 401, 4],
    ["FORBIDDEN", 403, 4],
    ["NOT_FOUND", 404, 6],
    ["MODEL_NOT_FOUND", 404, 6],
    ["CONFLICT", 409, 1],
    ["GONE", 410, 6],
    ["PAYLOAD_TOO_LARGE", 413, 2],
    ["QUEUE_FULL", 429, 3],
    ["RATE_LIMITED", 429, 3],
    ["QUOTA_EXCEEDED", 429, 3],
    ["CANCELLED", 499, 130],
    ["INTERNAL", 500, 70],
    ["WORKER_LOST", 502, 1],
    ["UNREACHABLE", 502, 5],
    ["NO_WORKER", 503, 3],
    ["SHUTTING_DOWN", 503, 3],
    ["DEADLINE_EXCEEDED", 504, 1],
    ["INSUFFICIENT_MEMORY", 507, 1],
  ];
  for (const [code, status, exit] of fixed) assert.deepEqual([ERRORS[code].status, ERRORS[code].exit], [status, exit], code);
});

test("the body of every error is what readers of errors expect", () => {
  for (const code of ERROR_CODES) {
    const error = new RbeesError(code, "Something is so.", { retry_after_ms: 12.3, details: { a: 1 }, param: "model" });
    const body = JSON.parse(JSON.stringify(error.body("corr-1")));
    assert.deepEqual(z.strictObject({ error: z.strictObject(ErrorBody.shape.error.shape) }).parse(body), body);
    assert.deepEqual(body.error, {
      code,
      message: "Something is so.",
      type: ERRORS[code].type,
      param: "model",
      retriable: ERRORS[code].retriable,
      correlation_id: "corr-1",
      retry_after_ms: 13,
      details: { a: 1 },
    });
  }
});

test("what an error does not have is left out of its body, apart from param, which is null", () => {
  const body = JSON.parse(JSON.stringify(new RbeesError("NOT_FOUND", "No.").body("c")));
  assert.deepEqual(Object.keys(body.error).sort(), ["code", "correlation_id", "message", "param", "retriable", "type"]);
  assert.equal(body.error.param, null);
});

test("an error keeps its cause for the log and knows its status and exit code", () => {
  const cause = new Error("disk on fire");
  const error = new RbeesError("INTERNAL", "A bug.", { cause });
  assert.deepEqual([error.cause, error.status, error.exit, error.name], [cause, 500, 70, "RbeesError"]);
  assert.equal("cause" in new RbeesError("INTERNAL", "A bug."), false);
});

test("a refusal names every problem, and the first field as its param", () => {
  const schema = z.strictObject({ a: z.int(), b: z.array(z.string().min(2)), c: z.strictObject({ d: z.boolean() }) });
  const parsed = schema.safeParse({ a: "1", b: ["ok", "x"], c: { d: true, e: 1 }, f: 2 });
  const problems = fieldProblems(parsed.error ?? new z.ZodError([]));
  assert.deepEqual(problems.map(({ field }) => field).sort(), ["a", "b.1", "c.e", "f"]);
  const error = invalidRequest(problems);
  for (const { field } of problems) assert.match(error.message, new RegExp(`${field.replace(".", "\\.")}: `));
  assert.deepEqual([error.code, error.param, error.details], ["INVALID_REQUEST", problems[0]?.field, problems]);
});

test("a body that is no object at all is one problem of the body, without a param", () => {
  const problems = fieldProblems(z.strictObject({}).safeParse("text").error ?? new z.ZodError([]));
  assert.deepEqual(
    problems.map(({ field }) => field),
    ["(body)"],
  );
  assert.equal(invalidRequest(problems).param, undefined);
});

test("a field that is missing is said to be required, one of another type is not", () => {
  const schema = z.strictObject({
    model: z.string(),
    messages: z.array(z.string()),
    n: z.number(),
    inner: z.strictObject({ a: z.boolean() }),
  });
  const problems = fieldProblems(schema.safeParse({ n: "many", inner: {} }).error ?? new z.ZodError([]));
  assert.deepEqual(
    problems.map(({ field, problem }) => `${field}: ${problem}`),
    [
      "model: is required (string)",
      "messages: is required (array)",
      "n: Invalid input: expected number, received string",
      "inner.a: is required (boolean)",
    ],
  );
});
