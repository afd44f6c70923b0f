/** What a route is: one row says method, path, schemas and replies; the server, the client and OpenAPI all read it. */
import type { z } from "zod";
import type { ErrorForm } from "./error-body.ts";

export type Method = "GET" | "POST" | "DELETE";
/** What a reply's body is: JSON of a schema, plain text, an event stream, a stream of lines of JSON, or nothing. */
export type ReplyBody = z.ZodType | "text" | "events" | "lines" | "none";

export interface Route {
  readonly method: Method;
  /** With `{name}` for each parameter, as OpenAPI writes it. */
  readonly path: string;
  readonly summary: string;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  /** The body is a form (multipart/form-data) with a file in it, which may be larger than other bodies. */
  readonly form?: true;
  /** Headers that say something of their own, by their names in lower case. */
  readonly headers?: z.ZodType;
  /** Status → every form the body can take; the first is the default, the rest are asked for with `Accept`. */
  readonly replies: Readonly<Record<number, readonly ReplyBody[]>>;
  /** How a refusal is written; our own form when not given. */
  readonly error_form?: ErrorForm;
}
export type RouteTable = Readonly<Record<string, Route>>;

type ParamNames<Path extends string> = Path extends `${string}{${infer Name}}${infer Rest}` ? Name | ParamNames<Rest> : never;

/** The parsed parts of a request to route R. */
export interface Input<R extends Route> {
  params: { [Name in ParamNames<R["path"]>]: string };
  query: R["query"] extends z.ZodType ? z.output<R["query"]> : undefined;
  body: R["body"] extends z.ZodType ? z.output<R["body"]> : undefined;
  /** The headers that the row names. */
  head: R["headers"] extends z.ZodType ? z.output<R["headers"]> : undefined;
}

/** What a client gives: parameters, query and body before defaults. */
export type ClientInput<R extends Route> = (keyof Input<R>["params"] extends never ? { params?: never } : { params: Input<R>["params"] }) &
  (R["query"] extends z.ZodType ? { query?: z.input<R["query"]> } : { query?: never }) &
  (R["body"] extends z.ZodType ? { body: z.input<R["body"]> } : { body?: never });

type JsonOf<Bodies> = Bodies extends readonly (infer Body)[] ? (Body extends z.ZodType ? z.output<Body> : never) : never;
/** The JSON a route answers with, over all its successful replies. */
export type JsonReply<R extends Route> = { [Status in keyof R["replies"]]: JsonOf<R["replies"][Status]> }[keyof R["replies"]];
