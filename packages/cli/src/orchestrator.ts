/** The way to the orchestrator: which one is meant, calls with a limit on waiting, and what to do when nobody answers. */
import { join } from "node:path";
import { type Client, createClient } from "@rbees/contracts/client";
import { RbeesError } from "@rbees/contracts/errors";
import type { Route } from "@rbees/contracts/route";
import { orcdRoutes } from "@rbees/contracts/routes";
import { KEY, OPERATOR_KEY_FILE, readSecretFile } from "@rbees/kit/key-file";
import { isInClear } from "@rbees/kit/network";
import { fetchTrusting, trusted } from "@rbees/kit/tls";
import type { World } from "./context.ts";
import { readUp } from "./local/up-record.ts";

export type Orchestrator = Client<typeof orcdRoutes> & { readonly url: string };

export const DEFAULT_URL = "http://localhost:8080";
/** Kept from the programs that `rbees` starts: they have no use for it. */
export const KEY_VARIABLE = "RBEES_API_KEY";
const CALL_MS_MAX = 30_000;
/** The orchestrator sends something every 15 s; a stream silent for longer than this is broken, whatever TCP says. */
const STREAM_SILENCE_MS_MAX = 50_000;

/** The flag, else the environment, else what `rbees up` started here, else the default. */
export async function orchestratorUrl(world: World & { orchestrator?: string | undefined }): Promise<string> {
  const named = world.orchestrator ?? environmentUrl(world);
  if (named !== undefined) return httpUrl(named, "--orchestrator");
  return (await readUp(world.home))?.orchestrator?.url ?? DEFAULT_URL;
}

function environmentUrl({ env }: World): string | undefined {
  return [env["RBEES_ORCHESTRATOR_URL"], env["LLORCH_ORCHESTRATOR_URL"]].find((url) => url !== undefined && url !== "");
}

export function httpUrl(given: string, flag: string): string {
  const url = URL.parse(/^[a-z]+:\/\//i.test(given) ? given : `http://${given}`);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new RbeesError("INVALID_REQUEST", `${flag}: "${given}" is no http address, such as ${DEFAULT_URL}`);
  }
  return url.href.replace(/\/+$/, "");
}

export async function orchestratorOf(world: World & { orchestrator?: string | undefined }): Promise<Orchestrator> {
  return orchestratorAt(world, await orchestratorUrl(world));
}

/** What a world says of the way to an orchestrator: flags, where there are any, else the environment. */
type Way = Pick<World, "env" | "home" | "signal"> & { ca?: string | undefined; insecure_no_tls?: boolean };

export function isInsecure({ env, insecure_no_tls = false }: Way): boolean {
  return insecure_no_tls || ["1", "true", "yes"].includes(env["RBEES_INSECURE_NO_TLS"] ?? "");
}

/** Trusts the authority of `--ca`, `RBEES_CA`, or the folder `tls` of the configuration. */
export function fetchFrom({ env, home, ca }: Way): typeof fetch {
  return fetchTrusting(trusted(ca ?? env["RBEES_CA"] ?? "", home));
}

/** The key, unless others could read it on its way there. */
function keyFor(way: Way, url: string): string | undefined {
  const key = apiKey(way);
  if (key === undefined || isInsecure(way) || !isInClear(url)) return key;
  throw new RbeesError(
    "INVALID_REQUEST",
    `Your key would go to ${url} in clear, for everybody on the way to read. Use https:// (\`rbees tls init\` on that machine makes a certificate), or say --insecure-no-tls if nobody on that network listens.`,
  );
}

/** The key to show, or the token of an issuer: of the environment, else of the file in the config folder. */
export function apiKey({ env, home }: Pick<World, "env" | "home">): string | undefined {
  const given = env[KEY_VARIABLE]?.trim() ?? "";
  if (given === "") return readSecretFile(join(home.config, OPERATOR_KEY_FILE), false, KEY);
  if (!KEY.form.test(given))
    throw new RbeesError("INVALID_REQUEST", `${KEY_VARIABLE} is no API key: those begin with rbk_. Nor is it a token of an issuer.`);
  return given;
}

export function orchestratorAt(
  way: Way,
  url: string,
  { stop = way.signal, call_ms_max = CALL_MS_MAX }: { stop?: AbortSignal; call_ms_max?: number } = {},
): Orchestrator {
  const key = keyFor(way, url);
  const headers: Record<string, string> = key === undefined ? {} : { authorization: `Bearer ${key}` };
  const client = createClient(orcdRoutes, url, { fetch: watching(url.startsWith("https:") ? fetchFrom(way) : fetch), headers });
  return {
    url,
    async call(name, input, options = {}) {
      const signal = AbortSignal.any([options.signal ?? stop, AbortSignal.timeout(call_ms_max)]);
      const reply = await client.call(name, input, { ...options, signal }).catch((error) => {
        throw explained(error, url, call_ms_max);
      });
      if (!fits(orcdRoutes[name], reply)) throw strangerAt(url);
      return reply;
    },
    async text(name, input, options = {}) {
      return client.text(name, input, { ...options, signal: options.signal ?? stop }).catch((error) => {
        throw explained(error, url, call_ms_max);
      });
    },
    async events(name, input, options = {}) {
      return client.events(name, input, { ...options, signal: options.signal ?? stop }).catch((error) => {
        throw explained(error, url, call_ms_max);
      });
    },
  };
}

/** Whether a reply is one that this route can give; what it holds beyond that is of a later version. */
function fits({ replies }: Route, reply: unknown): boolean {
  return Object.values(replies)
    .flat()
    .some((body) => (typeof body === "string" ? body !== "events" && reply === undefined : body.safeParse(reply).success));
}

function strangerAt(url: string): RbeesError {
  return new RbeesError("UNREACHABLE", `What answers at ${url} is no orchestrator of rbees; name another with --orchestrator.`);
}

function explained(error: unknown, url: string, call_ms_max: number): unknown {
  if (error instanceof SyntaxError) return strangerAt(url);
  if (error instanceof Error && error.name === "TimeoutError") {
    return new RbeesError("UNREACHABLE", `The orchestrator at ${url} has not answered within ${call_ms_max / 1000} s.`, { cause: error });
  }
  if (error instanceof RbeesError && error.code === "UNAUTHORIZED") {
    const how = `Give \`rbees\` the key in ${KEY_VARIABLE}, or in the file ${OPERATOR_KEY_FILE} of its config folder (mode 0600).`;
    return new RbeesError("UNAUTHORIZED", `The orchestrator at ${url} refuses: ${error.message} ${how}`, { cause: error });
  }
  const missing = missingRoute(error);
  if (missing !== undefined) {
    return new RbeesError(
      "NOT_FOUND",
      `What answers at ${url} has no ${missing}: it is a worker of rbees, or an orchestrator of an older version. --orchestrator names the orchestrator.`,
      { cause: error },
    );
  }
  if (!(error instanceof RbeesError) || error.code !== "UNREACHABLE") return error;
  if (error.cause === undefined && /This port speaks TLS/.test(error.message))
    return new RbeesError("UNREACHABLE", `${url} speaks TLS: use https:// in place of http://.`);
  if (error.cause === undefined) return strangerAt(url);
  if (/ is not trusted \(|^This machine does not know the name in /.test(error.message)) return error;
  const why = /\(([^()]*)\)\. Is it running/.exec(error.message)?.[1] ?? "no answer";
  return new RbeesError(
    "UNREACHABLE",
    `No orchestrator answers at ${url} (${why}): start one here with \`rbees up\`, or name another with --orchestrator.`,
    { cause: error.cause },
  );
}

/** What a program of rbees was asked that is not among its doors, such as `GET /v2/tasks`. */
export function missingRoute(error: unknown): string | undefined {
  if (!(error instanceof RbeesError) || error.code !== "NOT_FOUND") return undefined;
  return /^There is no ([A-Z]+ \/\S*)\. GET \/openapi\.json/.exec(error.message)?.[1];
}

/** A `fetch` whose event streams break when they fall silent, so that the reader connects again. */
function watching(send: typeof fetch): typeof fetch {
  return async (...request) => watched(await send(...request));
}

function watched(response: Response): Response {
  if (response.body === null || !response.headers.get("content-type")?.startsWith("text/event-stream")) return response;
  let timer: NodeJS.Timeout | undefined;
  const body = response.body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      start(controller) {
        timer = setTimeout(() => controller.error(new Error("the stream fell silent")), STREAM_SILENCE_MS_MAX);
      },
      transform(chunk, controller) {
        timer?.refresh();
        controller.enqueue(chunk);
      },
      flush() {
        clearTimeout(timer);
      },
      cancel() {
        clearTimeout(timer);
      },
    }),
  );
  timer?.unref();
  return new Response(body, { status: response.status, headers: response.headers });
}
