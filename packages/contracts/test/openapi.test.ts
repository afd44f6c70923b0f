/** The description of the API is made from the rows that serve it: it has to be a sound OpenAPI 3.1 document. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { openApi } from "../src/openapi.ts";
import type { RouteTable } from "../src/route.ts";
import { orcdRoutes, workerdRoutes } from "../src/routes.ts";

type Json = { [key: string]: unknown };
type Operation = {
  operationId: string;
  summary: string;
  parameters?: { name: string; in: string; required: boolean; schema: Json }[];
  requestBody?: { content: Record<string, { schema: Json }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: Json }> }>;
};
type Document = {
  openapi: string;
  info: Json;
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Json> };
};

const describeRoutes = (routes: RouteTable) =>
  JSON.parse(JSON.stringify(openApi(routes, { title: "rbees", version: "0.1.0" }))) as Document;
const documents: [string, RouteTable, Document][] = [
  ["orcd", orcdRoutes, describeRoutes(orcdRoutes)],
  ["workerd", workerdRoutes, describeRoutes(workerdRoutes)],
];

/** Every object in a document, with where it is. */
function* objects(value: unknown, at = "#"): Generator<[string, Json]> {
  if (typeof value !== "object" || value === null) return;
  if (!Array.isArray(value)) yield [at, value as Json];
  for (const [key, inner] of Object.entries(value)) yield* objects(inner, `${at}/${key}`);
}

const operations = (document: Document) =>
  Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
  );

for (const [name, routes, document] of documents) {
  test(`${name}: the document says its version and has every route under its path and method, and no other`, () => {
    assert.match(document.openapi, /^3\.1\.\d+$/);
    assert.deepEqual(document.info, { title: "rbees", version: "0.1.0" });
    const served = Object.entries(routes).map(([id, { method, path }]) => `${id} ${method} ${path}`);
    const described = operations(document).map(({ path, method, operation }) => `${operation.operationId} ${method.toUpperCase()} ${path}`);
    assert.deepEqual(described.sort(), served.sort());
  });

  test(`${name}: every reference leads to a schema, and every schema is referred to`, () => {
    const names = Object.keys(document.components.schemas);
    const used = new Set<string>();
    for (const [at, { $ref }] of objects(document)) {
      if (typeof $ref !== "string") continue;
      const [, target = ""] = /^#\/components\/schemas\/([A-Za-z0-9._-]+)$/.exec($ref) ?? assert.fail(`${at}: ${$ref}`);
      assert.ok(names.includes(target), `${at}: ${$ref} leads nowhere`);
      used.add(target);
    }
    assert.deepEqual([...used].sort(), names.sort());
  });

  test(`${name}: every path parameter is declared, and none that is not in the path`, () => {
    for (const { path, operation } of operations(document)) {
      const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === "path");
      assert.deepEqual(
        declared.map((parameter) => parameter.name),
        [...path.matchAll(/\{(\w+)\}/g)].map(([, parameter]) => parameter),
      );
      assert.ok(declared.every(({ required }) => required));
    }
  });

  test(`${name}: every operation has a summary, a described answer for each status, and the error body`, () => {
    for (const { path, operation } of operations(document)) {
      assert.ok(operation.summary.length > 3, path);
      const statuses = Object.keys(operation.responses);
      assert.ok(statuses.includes("default") && statuses.some((status) => /^2\d\d$/.test(status)), path);
      for (const [status, { description, content = {} }] of Object.entries(operation.responses)) {
        assert.ok(description.length > 0);
        assert.equal(Object.keys(content).length === 0, status === "204", `${path} ${status}`);
      }
      assert.deepEqual(operation.responses["default"]?.content?.["application/json"]?.schema, {
        $ref: `#/components/schemas/${path.startsWith("/api/") ? "OllamaError" : path.startsWith("/v1/messages") ? "AnthropicError" : "Error"}`,
      });
    }
  });

  test(`${name}: no schema keeps what belongs to the generator`, () => {
    for (const [at, object] of objects(document.components.schemas)) {
      assert.equal("$schema" in object || "$defs" in object, false, at);
      // A property may well be called "id"; a schema keyword is text.
      assert.equal(typeof object["id"] === "string", false, at);
    }
  });
}

test("a request's fields with defaults are optional, a reply's are not", () => {
  const [, , document] = documents[0] ?? assert.fail();
  const { SubmitJob, Accepted } = document.components.schemas;
  assert.deepEqual(SubmitJob?.["required"], ["model"]);
  assert.equal(SubmitJob?.["additionalProperties"], false);
  assert.deepEqual(Accepted?.["required"], ["job_id", "status", "queue_position", "events_url"]);
});

test("the list's query is described field by field", () => {
  const [, , document] = documents[0] ?? assert.fail();
  const parameters = document.paths["/v2/tasks"]?.["get"]?.parameters ?? [];
  assert.deepEqual(
    parameters.map(({ name, in: place, required }) => [name, place, required]),
    [
      ["status", "query", false],
      ["model", "query", false],
      ["tenant", "query", false],
      ["limit", "query", false],
      ["cursor", "query", false],
    ],
  );
});
