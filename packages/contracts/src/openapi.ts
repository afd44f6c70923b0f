/** OpenAPI 3.1 made from a route table: the same rows that validate requests describe them. */
import { z } from "zod";
import { ERROR_FORMS } from "./error-body.ts";
import type { ReplyBody, Route, RouteTable } from "./route.ts";
import type { Access } from "./routes.ts";

type Json = Record<string, unknown>;

const KEY_SCHEMES = {
  bearer: { type: "http", scheme: "bearer", description: "An API key of rbees, where the orchestrator asks for one" },
  x_api_key: { type: "apiKey", in: "header", name: "x-api-key" },
};

/** `access` names the roles of keys; a table without it knows no keys. */
export function openApi<T extends RouteTable>(
  routes: T,
  info: { title: string; version: string },
  access?: Readonly<Record<keyof T, Access>>,
): Json {
  const components: Json = {};
  const paths: Record<string, Json> = {};
  for (const [operationId, route] of Object.entries(routes)) {
    paths[route.path] ??= {};
    (paths[route.path] as Json)[route.method.toLowerCase()] = {
      ...operation(operationId, route, components),
      ...(access === undefined ? {} : security(access[operationId as keyof T])),
    };
  }
  const schemes = access === undefined ? {} : { securitySchemes: KEY_SCHEMES };
  return { openapi: "3.1.0", info, paths, components: { ...schemes, schemas: components } };
}

function operation(operationId: string, route: Route, components: Json): Json {
  const responses: Json = {};
  for (const [status, bodies] of Object.entries(route.replies)) responses[status] = reply(bodies, components);
  responses["default"] = {
    description: "Refused: see docs/errors.md for the codes",
    content: { "application/json": { schema: schema(ERROR_FORMS[route.error_form ?? "rbees"].schema, "output", components) } },
  };
  const given = [
    ...pathParameters(route.path),
    ...parameters("query", route.query, components),
    ...parameters("header", route.headers, components),
  ];
  return {
    operationId,
    summary: route.summary,
    ...(given.length > 0 ? { parameters: given } : {}),
    ...(route.body === undefined
      ? {}
      : {
          requestBody: {
            required: true,
            content: { [route.form ? "multipart/form-data" : "application/json"]: { schema: schema(route.body, "input", components) } },
          },
        }),
    responses,
  };
}

function security(access: Access): Json {
  if (access === "everybody") return { security: [] };
  return { security: [{ bearer: [] }, { x_api_key: [] }], "x-rbees-roles": access };
}

function reply(bodies: readonly ReplyBody[], components: Json): Json {
  const content: Json = {};
  for (const body of bodies) {
    if (body === "text") content["text/plain"] = { schema: { type: "string" } };
    else if (body === "events") content["text/event-stream"] = { schema: { type: "string" } };
    else if (body === "lines") content["application/x-ndjson"] = { schema: { type: "string" } };
    else if (body !== "none") content["application/json"] = { schema: schema(body, "output", components) };
  }
  return { description: "Done", ...(Object.keys(content).length > 0 ? { content } : {}) };
}

function pathParameters(path: string): Json[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({ name, in: "path", required: true, schema: { type: "string" } }));
}

function parameters(place: "query" | "header", type: z.ZodType | undefined, components: Json): Json[] {
  if (type === undefined) return [];
  const { properties = {} } = schema(type, "input", components) as { properties?: Record<string, Json> };
  return Object.entries(properties).map(([name, of]) => ({ name, in: place, required: false, schema: of }));
}

/** A schema with an id becomes a component and is referred to; what it needs comes along. */
function schema(type: z.ZodType, io: "input" | "output", components: Json): Json {
  const made = z.toJSONSchema(type, { target: "draft-2020-12", io, unrepresentable: "any", reused: "inline" }) as Json;
  const { $schema: _, $defs, id, ...body } = made as Json & { $defs?: Record<string, Json>; id?: string };
  for (const [name, def] of Object.entries($defs ?? {})) components[name] ??= withoutId(refsToComponents(def));
  const own = refsToComponents(body) as Json;
  if (typeof id !== "string") return own;
  components[id] ??= withoutId(own);
  return { $ref: `#/components/schemas/${id}` };
}

function withoutId(value: unknown): unknown {
  const { id: _, $schema: __, ...rest } = value as Json;
  return rest;
}

function refsToComponents(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(refsToComponents);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) =>
      key === "$ref" && typeof inner === "string"
        ? [key, inner.replace("#/$defs/", "#/components/schemas/")]
        : [key, refsToComponents(inner)],
    ),
  );
}
