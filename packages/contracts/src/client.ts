/** A typed HTTP client over a route table, for people's programs and the command line. Not for the relay's hot path. */
import { ErrorBody } from "./error-body.ts";
import { knownCode, RbeesError } from "./errors.ts";
import type { ClientInput, JsonReply, Route, RouteTable } from "./route.ts";
import { readEvents, type SseEvent } from "./sse.ts";
import { tlsSentence } from "./tls-errors.ts";

export interface ClientOptions {
  /** Sent with every request, such as `authorization`. */
  headers?: Record<string, string>;
  fetch?: typeof fetch;
}

interface CallOptions {
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

export interface Client<T extends RouteTable> {
  /** Calls a route and gives its JSON. Throws `RbeesError` for every refusal and when the server can't be reached. */
  call<Name extends keyof T & string>(name: Name, input: ClientInput<T[Name]>, options?: CallOptions): Promise<JsonReply<T[Name]>>;
  /** Calls a route that answers with text. */
  text<Name extends keyof T & string>(name: Name, input: ClientInput<T[Name]>, options?: CallOptions): Promise<string>;
  /** Calls a route that answers with events. The response's headers come first, so a refusal throws before the first event. */
  events<Name extends keyof T & string>(name: Name, input: ClientInput<T[Name]>, options?: CallOptions): Promise<AsyncGenerator<SseEvent>>;
}

/** What a resolver says of a name that it can't turn into an address. */
const NAMELESS = new Set(["ENOTFOUND", "EAI_AGAIN", "EAI_NONAME", "EAI_NODATA"]);

export function createClient<T extends RouteTable>(routes: T, base_url: string, options: ClientOptions = {}): Client<T> {
  const base = base_url.replace(/\/+$/, "");
  const send = options.fetch ?? fetch;

  async function request(route: Route, input: ClientInput<Route>, accept: string, call: CallOptions): Promise<Response> {
    const { params, query, body } = input as { params?: Record<string, string>; query?: object; body?: unknown };
    const path = route.path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params?.[name] ?? ""));
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries(query ?? {})) if (value !== undefined) search.set(key, String(value));
    const url = `${base}${path}${search.size > 0 ? `?${search}` : ""}`;
    let response: Response;
    try {
      response = await send(url, {
        method: route.method,
        headers: {
          accept,
          ...(body === undefined || route.form ? {} : { "content-type": "application/json" }),
          ...options.headers,
          ...call.headers,
        },
        ...(body === undefined ? {} : { body: route.form ? formOf(body as object) : JSON.stringify(body) }),
        ...(call.signal === undefined ? {} : { signal: call.signal }),
      });
    } catch (error) {
      if (call.signal?.aborted) throw error;
      const why = reason(error);
      const tls = tlsSentence(why);
      if (tls !== undefined) throw new RbeesError("UNREACHABLE", `${base} is not trusted (${why}): ${tls}.`, { cause: error });
      const message = NAMELESS.has(why)
        ? `This machine does not know the name in ${base} (${why}): is it spelt right, and in the DNS or the hosts file of this machine?`
        : `Nothing answers at ${base} (${why}). Is it running there?`;
      throw new RbeesError("UNREACHABLE", message, { cause: error });
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }

  return {
    async call(name, input, call = {}) {
      const response = await request(routes[name] as Route, input as ClientInput<Route>, "application/json", call);
      if (response.status === 204) return undefined as never;
      let text = "";
      try {
        text = await response.text();
        return JSON.parse(text) as never;
      } catch (error) {
        if (call.signal?.aborted) throw error;
        if (!(error instanceof SyntaxError))
          throw new RbeesError("UNREACHABLE", `${base} broke off its answer (${reason(error)}).`, { cause: error });
        throw foreign(response, text);
      }
    },
    async text(name, input, call = {}) {
      const response = await request(routes[name] as Route, input as ClientInput<Route>, "*/*", call);
      try {
        return await response.text();
      } catch (error) {
        if (call.signal?.aborted) throw error;
        throw new RbeesError("UNREACHABLE", `${base} broke off its answer (${reason(error)}).`, { cause: error });
      }
    },
    async events(name, input, call = {}) {
      const response = await request(routes[name] as Route, input as ClientInput<Route>, "text/event-stream", call);
      if (response.body === null) throw new RbeesError("UNREACHABLE", `${base} answered without a body`);
      return readEvents(response.body as unknown as AsyncIterable<Uint8Array>);
    },
  };
}

/** A file is given as its name and bytes. */
function formOf(fields: object): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields) as [string, string | number | { name: string; bytes: Uint8Array<ArrayBuffer> }][]) {
    if (typeof value === "object") form.set(name, new Blob([value.bytes]), value.name);
    else form.set(name, String(value));
  }
  return form;
}

/** The refusal that an answer carries; one without our error body is named by its status. */
async function refusal(response: Response): Promise<RbeesError> {
  const text = await response.text();
  const parsed = ErrorBody.safeParse(parseJson(text));
  if (!parsed.success) return foreign(response, text);
  const { code, message, retry_after_ms, details, param } = parsed.data.error;
  return new RbeesError(knownCode(code), message, {
    details,
    ...(retry_after_ms === undefined ? {} : { retry_after_ms }),
    ...(param === null ? {} : { param }),
  });
}

/** What answers there is another program. */
function foreign({ url, status }: Response, text: string): RbeesError {
  return new RbeesError("UNREACHABLE", `${url || "The server"} answered ${status}, not as an rbees program would: ${text.slice(0, 200)}`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function reason(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  if (cause instanceof Error && "code" in cause) return String(cause.code);
  return error instanceof Error ? error.message : String(error);
}
