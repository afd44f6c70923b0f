/**
 * Serving a route table: the only file that knows the web framework. Every request gets a correlation id, its parts are
 * parsed by the row's schemas, every refusal leaves as the one error body, and a stream leaves through `EventStream`.
 */
import { isUtf8 } from "node:buffer";
import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import type { Server as HttpsServer } from "node:https";
import { ERROR_FORMS, type ErrorForm, type FieldProblem, type FormOfError, fieldProblems } from "@rbees/contracts/error-body";
import { ERRORS, invalidRequest, RbeesError } from "@rbees/contracts/errors";
import type { Input, JsonReply, Route, RouteTable } from "@rbees/contracts/route";
import { type FastifyReply, type FastifyRequest, fastify } from "fastify";
import { refuseClient } from "./client-error.ts";
import { EventStream, type StreamForm } from "./event-stream.ts";
import { formFields } from "./form.ts";
import { boundConnections, HTTP_LIMITS, type HttpLimits, jsonExcess, timeouts } from "./http-limits.ts";
import { listenError } from "./listening.ts";
import { LiveSet } from "./live-set.ts";
import type { Log } from "./log.ts";
import { authority, plainAddress } from "./network.ts";
import type { Tls, TlsFiles } from "./tls.ts";
import { adviseThoseInClear } from "./tls-port.ts";
import { keepCertificate, renewalSettings } from "./tls-renewal.ts";

export type Request<R extends Route> = Input<R> & {
  correlation_id: string;
  /** What the caller's `Accept` asks for by name; `*` and nothing ask for neither. */
  wants: { json: boolean; events: boolean };
  headers: IncomingHttpHeaders;
  /** Who sent it, as the record says it: a key's public id; undefined when nobody is asked. */
  who: string | undefined;
  /** What `authorize` gave. */
  principal: Principal | undefined;
  /** The address that the caller has; of a proxy, if one stands between. */
  peer: string;
  /** Called when the caller's connection breaks before the answer has left. */
  onLeave(listener: () => void): void;
};

/** Who calls. More of it is the affair of whoever authorizes. */
export interface Principal {
  readonly who?: string | undefined;
}

export type Reply<R extends Route = Route> =
  | { status?: number; json: JsonReply<R>; headers?: Record<string, string> }
  | { status?: number; text: string; content_type?: string }
  | { status?: number; none: true }
  | { events: (stream: EventStream) => void; form?: StreamForm; headers?: Record<string, string> };

export type Handlers<T extends RouteTable> = { [Name in keyof T]: (request: Request<T[Name]>) => Promise<Reply<T[Name]>> | Reply<T[Name]> };

type Authorized = Principal | undefined;

/** A request that a route did not take. */
export interface Refusal {
  readonly route: string;
  readonly error: RbeesError;
  /** The address that the caller has. */
  readonly peer: string;
  /** As it was sent, unchecked; undefined where it was refused before it was read. */
  readonly body: unknown;
  readonly headers: IncomingHttpHeaders;
}

/** What is left out of the limits is as their defaults have it. */
export interface ServeOptions extends Partial<HttpLimits> {
  host: string;
  port: number;
  log: Log;
  body_bytes_max: number;
  /** Of routes whose body is a form; `body_bytes_max` when not given. */
  form_bytes_max?: number;
  /** A silent event stream gets a comment this often. */
  ping_ms: number;
  /** What it shows its callers; without it, it speaks in clear. Where its files are named, they are read again when they change. */
  tls?: (Tls & Partial<TlsFiles>) | undefined;
  tls_reload_ms?: number;
  /**
   * Asked before anything else of a request is read: says who calls, or throws the refusal. Without it nobody is asked. `peer` is the
   * address that the caller has.
   */
  authorize?: ((route: string, headers: IncomingHttpHeaders, peer: () => string) => Authorized | Promise<Authorized>) | undefined;
  /** Hears of every refusal that leaves a route. */
  refused?: ((refusal: Refusal) => void) | undefined;
  /** What is done instead of asking for a path that there is not, where somebody's program asks for it. */
  elsewhere?: ((path: string) => string | undefined) | undefined;
}

export interface Served {
  readonly host: string;
  readonly port: number;
  readonly url: string;
  /** Stops accepting and waits for open requests; streams still open after `grace_ms` say their last words, and are cut. */
  close(grace_ms: number): Promise<void>;
}

/** What a refusal knows of the route it comes from. */
interface RouteConfig {
  name?: string;
  error_form?: ErrorForm | undefined;
  form?: true | undefined;
  body?: true | undefined;
}

/** Room for the longest id there is with each of its characters percent-encoded. */
const PARAM_CHARS_MAX = 512;
const CLIENT_PATIENCE_MS = 60_000;
/** For last words to reach whoever reads. */
const LAST_WORDS_MS = 100;
const CORRELATION_ID = /^[A-Za-z0-9-]{1,64}$/;

export async function serve<T extends RouteTable>(routes: T, handlers: Handlers<T>, options: ServeOptions): Promise<Served> {
  const { log } = options;
  const limits: HttpLimits = { ...HTTP_LIMITS, ...options };
  // Node would refuse a request without a host by itself, and without a word.
  const node = { ...timeouts(limits), maxHeaderSize: limits.headers_bytes_max, requireHostHeader: false };
  const streams = new LiveSet<EventStream>();
  const app = fastify({
    // Typed as a server in clear: of all that differs, nothing is used here.
    ...((options.tls === undefined
      ? {}
      : {
          https: { ...node, cert: options.tls.cert, key: options.tls.key, minVersion: "TLSv1.2", handshakeTimeout: limits.headers_ms_max },
        }) as object),
    logger: false,
    bodyLimit: options.body_bytes_max,
    requestTimeout: limits.request_ms_max,
    forceCloseConnections: "idle",
    // Its own answer for those who come while it closes is none of the error table; the routes know better what still can be done.
    return503OnClosing: false,
    http: node,
    clientErrorHandler: (error, socket) => refuseClient(error, socket, limits),
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: PARAM_CHARS_MAX },
    frameworkErrors: (_error, request, reply) =>
      refuse(
        new RbeesError("INVALID_REQUEST", "The path is not valid: a part of it can't be decoded, or is too long."),
        request,
        reply,
        log,
      ),
    genReqId: (request) => {
      const given = request.headers["x-correlation-id"];
      return typeof given === "string" && CORRELATION_ID.test(given) ? given : randomUUID();
    },
  });
  app.addHook("onRequest", (request, _reply, next) => {
    const { httpVersion, headers } = request.raw;
    // Ollama looks at no type, and LiteLLM sends it none. A browser says where its page is from: one of another site gets nothing in this way.
    if (configOf(request).error_form === "ollama" && headers.origin === undefined) headers["content-type"] ??= "application/json";
    next(
      httpVersion === "1.1" && headers.host === undefined ? new RbeesError("INVALID_REQUEST", "HTTP/1.1 needs a Host header.") : undefined,
    );
  });
  // Else text would reach a route as its body, and be told that it is no object instead of that it is no JSON.
  app.removeContentTypeParser("text/plain");
  const parseJson = app.getDefaultJsonParser("error", "error");
  app.removeContentTypeParser("application/json");
  app.addContentTypeParser<Buffer>("application/json", { parseAs: "buffer" }, (request, bytes, done) => {
    // Some clients name this type whatever they send: Python's for OpenAI does so when it deletes a file or cancels a batch.
    if (bytes.length === 0 && configOf(request).body === undefined) return done(null, undefined);
    // Read as text, what is no UTF-8 would be replaced, and something else answered than what was asked.
    if (!isUtf8(bytes)) return done(notUtf8());
    parseJson(request, bytes.toString("utf8"), (error, body) => done(error ?? jsonExcess(body, limits) ?? null, body));
  });
  if (Object.values(routes).some(({ form }) => form)) {
    app.addContentTypeParser("multipart/form-data", { parseAs: "buffer" }, async (request: FastifyRequest, body: Buffer) => {
      if (configOf(request).form === undefined) throw notJson();
      return await formFields(body, request.headers["content-type"] ?? "");
    });
  }
  app.setErrorHandler((error, request, reply) => {
    const form = configOf(request).form === true;
    const limit = form ? (options.form_bytes_max ?? options.body_bytes_max) : options.body_bytes_max;
    const refusal = toRbeesError(error, { form, limit });
    const { name } = configOf(request);
    if (name !== undefined)
      options.refused?.({ route: name, error: refusal, peer: peerOf(request), body: request.body, headers: request.headers });
    return refuse(refusal, request, reply, log);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split("?", 1)[0] as string;
    const elsewhere = options.elsewhere?.(path) ?? "GET /openapi.json lists what there is.";
    return refuse(
      new RbeesError("NOT_FOUND", `There is no ${request.method} ${path}. ${elsewhere}`),
      request,
      reply,
      log,
      ERROR_FORMS[formBeside(routes, path)],
    );
  });

  const { authorize } = options;
  const callers = new WeakMap<FastifyRequest, Principal>();
  for (const [name, route] of Object.entries(routes)) {
    const handler = handlers[name] as unknown as (request: Request<Route>) => Promise<Reply> | Reply;
    app.route({
      method: route.method,
      config: {
        name,
        error_form: route.error_form,
        form: route.form,
        body: route.body === undefined ? undefined : true,
      } satisfies RouteConfig,
      ...(route.form === undefined ? {} : { bodyLimit: options.form_bytes_max ?? options.body_bytes_max }),
      // HEAD on a stream would open it.
      exposeHeadRoute: route.method === "GET" && !mayStream(route),
      url: route.path.replace(/\{(\w+)\}/g, ":$1"),
      ...(authorize === undefined
        ? {}
        : {
            onRequest: async (request: FastifyRequest) => {
              const principal = await authorize(name, request.headers, () => peerOf(request));
              if (principal !== undefined) callers.set(request, principal);
            },
          }),
      handler: async (request, reply) => {
        const answer = await handler(parseRequest(route, request, reply.raw, callers.get(request)));
        if ("events" in answer) return openStream(answer, request, reply, streams);
        reply.headers(idHeaders(request));
        if ("json" in answer)
          return reply
            .code(answer.status ?? 200)
            .headers(answer.headers ?? {})
            .type("application/json; charset=utf-8")
            .send(JSON.stringify(answer.json));
        if ("text" in answer)
          return reply
            .code(answer.status ?? 200)
            .type(answer.content_type ?? "text/plain; charset=utf-8")
            .send(answer.text);
        return reply.code(answer.status ?? 204).send();
      },
    });
  }

  const dropSilent = options.tls === undefined ? () => {} : adviseThoseInClear(app.server as unknown as HttpsServer, limits.headers_ms_max);
  boundConnections(app.server, limits, log);
  const forgetCertificate = renewed(app.server as unknown as HttpsServer, options);
  const pings = setInterval(
    () => {
      for (const stream of streams) stream.ping(options.ping_ms);
    },
    Math.max(10, options.ping_ms / 4),
  );
  pings.unref();

  try {
    await app.listen({ host: options.host, port: options.port, backlog: 1024 });
  } catch (error) {
    clearInterval(pings);
    forgetCertificate();
    throw listenError(error, options);
  }
  const address = app.server.address();
  const port = typeof address === "object" && address !== null ? address.port : options.port;
  return {
    host: options.host,
    port,
    url: `${options.tls === undefined ? "http" : "https"}://${authority(options.host, port)}`,
    async close(grace_ms) {
      clearInterval(pings);
      forgetCertificate();
      dropSilent();
      const told = setTimeout(() => {
        for (const stream of streams) stream.serverCloses();
      }, grace_ms);
      const cut = setTimeout(() => {
        for (const stream of streams) stream.cut();
        app.server.closeAllConnections();
      }, grace_ms + LAST_WORDS_MS);
      // A connection whose stream has ended only now idles, and nobody else would close it.
      for (const stream of streams) stream.onClose(() => app.server.closeIdleConnections());
      await app.close();
      clearTimeout(told);
      clearTimeout(cut);
    },
  };
}

function mayStream({ replies }: Route): boolean {
  return Object.values(replies).some((forms) => forms.includes("events") || forms.includes("lines"));
}

function renewed(server: HttpsServer, { tls, tls_reload_ms = renewalSettings.tls_reload_ms.default, log }: ServeOptions): () => void {
  const { cert_file, key_file } = tls ?? {};
  if (tls === undefined || cert_file === undefined || key_file === undefined) return () => {};
  return keepCertificate(server, { ...tls, cert_file, key_file }, { tls_reload_ms, log });
}

function peerOf(request: FastifyRequest): string {
  return plainAddress(request.socket.remoteAddress ?? "");
}

function parseRequest(route: Route, request: FastifyRequest, response: ServerResponse, principal: Authorized): Request<Route> {
  const problems: FieldProblem[] = [];
  const parse = (schema: Route["body"], value: unknown) => {
    if (schema === undefined) return undefined;
    const parsed = schema.safeParse(value);
    if (!parsed.success) problems.push(...fieldProblems(parsed.error));
    return parsed.data;
  };
  if (route.body !== undefined && request.body === undefined) {
    throw route.form
      ? notAForm()
      : new RbeesError("INVALID_REQUEST", "A JSON body is required: send it with Content-Type: application/json.");
  }
  const query = parse(route.query, request.query);
  const body = parse(route.body, request.body);
  const head = parse(route.headers, request.headers);
  if (problems.length > 0) throw invalidRequest(problems);
  const accept = request.headers.accept ?? "";
  return {
    params: request.params as Record<never, string>,
    query: query as undefined,
    body: body as undefined,
    head: head as undefined,
    correlation_id: request.id,
    wants: { json: accept.includes("application/json"), events: accept.includes("text/event-stream") },
    headers: request.headers,
    who: principal?.who,
    principal,
    peer: peerOf(request),
    onLeave(listener) {
      if (response.destroyed) listener();
      else response.on("close", () => response.writableFinished || listener());
    },
  };
}

function openStream(
  answer: Extract<Reply, { events: unknown }>,
  request: FastifyRequest,
  reply: FastifyReply,
  streams: LiveSet<EventStream>,
): FastifyReply {
  reply.hijack();
  const stream = new EventStream(request.raw, reply.raw, { ...idHeaders(request), ...answer.headers }, answer.form);
  stream.onClose(streams.add(stream));
  answer.events(stream);
  return reply;
}

function refuse(
  error: RbeesError,
  request: FastifyRequest,
  reply: FastifyReply,
  log: Log,
  form: FormOfError = errorForm(request),
): FastifyReply {
  if (error.status >= 500 && error.cause !== undefined) log.error({ err: error.cause, correlation_id: request.id }, error.message);
  if (error.retry_after_ms !== undefined) {
    reply.header("retry-after", String(Math.max(1, Math.ceil(error.retry_after_ms / 1000))));
    reply.header("x-backoff-ms", String(Math.ceil(error.retry_after_ms)));
    // The same for the clients of OpenAI and Anthropic, which look here first.
    reply.header("retry-after-ms", String(Math.ceil(error.retry_after_ms)));
  }
  return reply
    .code(error.status)
    .headers(error.headers ?? {})
    .headers(idHeaders(request))
    .header("x-should-retry", String(shouldRetry(error)))
    .type("application/json; charset=utf-8")
    .send(JSON.stringify(form.body(error, request.id)));
}

/** The form that the routes beside this path have, where they all have the same: clients of their API read no other. */
function formBeside(routes: RouteTable, path: string): ErrorForm {
  const first = (of: string) => of.split("/", 2)[1];
  const forms = new Set(Object.values(routes).flatMap((route) => (first(route.path) === first(path) ? (route.error_form ?? "rbees") : [])));
  const [form = "rbees"] = forms;
  return forms.size === 1 ? form : "rbees";
}

/**
 * The clients of OpenAI and Anthropic go by this, else they would send again whatever ended with 5xx. Where they would have to wait for long,
 * the one comes back at once and in vain, and the other sleeps until then: both are told not to.
 */
function shouldRetry({ code, retry_after_ms = 0 }: RbeesError): boolean {
  return ERRORS[code].retriable && retry_after_ms <= CLIENT_PATIENCE_MS;
}

function errorForm(request: FastifyRequest): FormOfError {
  return ERROR_FORMS[configOf(request).error_form ?? "rbees"];
}

function configOf(request: FastifyRequest): RouteConfig {
  return (request.routeOptions?.config ?? {}) as RouteConfig;
}

/** The correlation id: in our header, and in the one where the clients of the route's API look for it. */
function idHeaders(request: FastifyRequest): Record<string, string> {
  const { id_header } = errorForm(request);
  return { "x-correlation-id": request.id, ...(id_header === undefined ? {} : { [id_header]: request.id }) };
}

function toRbeesError(error: unknown, { form, limit }: { form: boolean; limit: number }): RbeesError {
  if (error instanceof RbeesError) return error;
  const { code = "", statusCode = 500, message = String(error) } = error as { code?: string; statusCode?: number; message?: string };
  if (code === "FST_ERR_CTP_BODY_TOO_LARGE") {
    return new RbeesError("PAYLOAD_TOO_LARGE", `The body is larger than ${limit} bytes.`);
  }
  if (code === "FST_ERR_CTP_INVALID_MEDIA_TYPE") {
    return form ? notAForm() : notJson();
  }
  if (code === "FST_ERR_CTP_EMPTY_JSON_BODY") return new RbeesError("INVALID_REQUEST", "The body is empty; it must be JSON.");
  if (statusCode === 400) return new RbeesError("INVALID_REQUEST", `The body is not valid JSON (${withoutQuotedInput(message)}).`);
  if (statusCode < 500) return new RbeesError("INVALID_REQUEST", message);
  return new RbeesError("INTERNAL", "This is a bug in rbees; the log has the details under this correlation id.", { cause: error });
}

function notUtf8(): RbeesError {
  return new RbeesError(
    "INVALID_REQUEST",
    "The body must be JSON in UTF-8, and some of its bytes are not: encode it so before it is sent.",
  );
}

function notJson(): RbeesError {
  return new RbeesError(
    "INVALID_REQUEST",
    "The body must be JSON: send Content-Type: application/json (curl: -H 'content-type: application/json').",
  );
}

function notAForm(): RbeesError {
  return new RbeesError(
    "INVALID_REQUEST",
    "The body must be a form with a file: send multipart/form-data (curl: -F purpose=batch -F file=@FILE).",
  );
}

/** V8 quotes the text around a JSON mistake; that may be part of a prompt, which no error may echo. */
function withoutQuotedInput(message: string): string {
  return /at position \d+|Unexpected end of JSON input/.exec(message)?.[0] ?? "it can't be parsed";
}
