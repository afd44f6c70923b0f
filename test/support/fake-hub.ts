/**
 * A hub for tests and benches: the part of Hugging Face's API that a download uses, with storage on a port of its own behind signed,
 * expiring addresses, and the faults that such servers have.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** Bytes that are there, or made as they are asked for (256 KiB at most at once): a gigabyte need not be in memory. */
export interface Content {
  readonly bytes: number;
  slice(from: number, to: number): Buffer;
}

/** What storage does with one request; undefined: it answers as it should. */
export type Fault =
  | { status: number; headers?: Record<string, string> }
  /** The connection is cut after so many bytes of the body. */
  | { cut_after: number }
  /** Nothing comes any more after so many bytes. */
  | { stall_after: number }
  /** The body ends, as if that were all. */
  | { end_after: number };

export interface FakeRepo {
  commit: string;
  files: Record<string, Content>;
  /** Names for the commit beside `main`. */
  revisions?: string[];
  license?: string;
  /** The token without which files can't be had. */
  token?: string;
  /** A token is not enough: somebody has to accept the licence. */
  gated?: boolean;
  /** What the hub says instead of the right SHA-256. */
  wrong_sha256?: string;
  /** What the hub says instead of the right size. */
  wrong_bytes?: number;
}

interface Request {
  /** Which of the two servers: the API and the addresses of files, or the storage. */
  at: "hub" | "storage";
  method: string;
  path: string;
  range: string | undefined;
  authorization: string | undefined;
  /** Bytes of the body that were written. */
  sent: number;
}

const CHUNK_BYTES = 262_144;
/** At least so many, so that a slow server is slow and not dead. */
const PACED_CHUNKS_PER_SECOND = 20;

export class FakeHub {
  readonly repos = new Map<string, FakeRepo>();
  readonly requests: Request[] = [];
  /** Asked for each request to the storage. */
  fault: (request: Request, nth: number) => Fault | undefined = () => undefined;
  /** Asked for each request to the hub itself. */
  hub_fault: (request: Request, nth: number) => { status: number; headers?: Record<string, string> } | undefined = () => undefined;
  /** Whether the storage gives parts of files. */
  ranges = true;
  /** How often an address of the storage works; then it has expired. */
  signed_uses_max = Number.POSITIVE_INFINITY;
  /** How many connections the storage has had. */
  storage_connections = 0;
  /** Bytes a second of each connection. */
  pace_bytes_per_second = Number.POSITIVE_INFINITY;
  /** The storage's tag for the file; changed when the file has changed. */
  etag = '"v1"';
  readonly #hub: Server;
  readonly #storage: Server;
  readonly #signed = new Map<string, number>();
  #hub_url = "";
  #storage_url = "";

  constructor() {
    this.#hub = createServer((request, response) => this.#answerHub(request, response));
    this.#storage = createServer((request, response) => this.#answerStorage(request, response));
    this.#storage.on("connection", () => {
      this.storage_connections += 1;
    });
  }

  static async start(address = "127.0.0.1"): Promise<FakeHub> {
    const hub = new FakeHub();
    hub.#hub_url = await listen(hub.#hub, address);
    hub.#storage_url = await listen(hub.#storage, address);
    return hub;
  }

  async stop(): Promise<void> {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections();
      server.close();
    }
  }

  /** For `HF_ENDPOINT`. */
  get url(): string {
    return this.#hub_url;
  }

  /** The address of a file for those who know nothing of hubs. */
  plainUrl(repo: string, path: string): string {
    return `${this.#storage_url}/plain/${repo}/${path}`;
  }

  /** Body bytes that the storage has sent so far. */
  get sent(): number {
    return this.requests.filter(({ at }) => at === "storage").reduce((sum, { sent }) => sum + sent, 0);
  }

  #note(at: Request["at"], message: IncomingMessage): Request {
    const { range, authorization } = message.headers;
    const request = { at, method: message.method ?? "", path: message.url ?? "", range, authorization, sent: 0 };
    this.requests.push(request);
    return request;
  }

  #answerHub(message: IncomingMessage, response: ServerResponse): void {
    const request = this.#note("hub", message);
    const fault = this.hub_fault(request, this.requests.filter(({ at }) => at === "hub").length);
    if (fault !== undefined) return void response.writeHead(fault.status, fault.headers).end();
    const { pathname } = new URL(request.path, this.url);
    const [, api, id = "", verb = "", revision = "", path = ""] =
      /^(\/api\/models)?\/([^/]+\/[^/]+)\/(revision|tree|resolve)\/([^/]+)(?:\/(.*))?$/.exec(pathname) ?? [];
    const repo = this.repos.get(id);
    const say = (status: number, code: string, error: string) =>
      response
        .writeHead(status, { "content-type": "application/json", "x-error-code": code, "x-error-message": error })
        .end(JSON.stringify({ error }));
    // As the hub does: whoever is not known shall not learn what exists.
    if (repo === undefined)
      return void (request.authorization === undefined
        ? say(401, "RepoNotFound", "Invalid username or password.")
        : say(404, "RepoNotFound", "Repository not found"));
    const names = ["main", "HEAD", repo.commit, ...(repo.revisions ?? [])];
    if (!names.includes(decodeURIComponent(revision))) return void say(404, "RevisionNotFound", `Invalid rev id: ${revision}`);
    if (api !== undefined && verb === "revision")
      return json(response, {
        _id: "1",
        id,
        sha: repo.commit,
        private: false,
        gated: repo.gated ? "auto" : false,
        downloads: 1,
        likes: 1,
        lastModified: "2026-01-01T00:00:00.000Z",
        cardData: { license: repo.license },
      });
    if (api !== undefined && verb === "tree")
      return json(
        response,
        Object.entries(repo.files).map(([name, content]) => entry(name, content, repo)),
      );
    const content = repo.files[decodeURIComponent(path)];
    if (content === undefined) return void say(404, "EntryNotFound", "Entry not found");
    if (repo.token !== undefined && request.authorization !== `Bearer ${repo.token}`)
      return void (repo.gated
        ? say(request.authorization === undefined ? 401 : 403, "GatedRepo", `Access to model ${id} is restricted.`)
        : say(401, "RepoNotFound", "Repository not found"));
    const signature = createHash("sha256").update(`${Math.random()}`).digest("hex").slice(0, 16);
    this.#signed.set(signature, this.signed_uses_max);
    const headers = {
      location: `${this.#storage_url}/signed/${id}/${path}?signature=${signature}`,
      "x-repo-commit": repo.commit,
      "x-linked-size": content.bytes,
      "x-linked-etag": `"${hashOf(content)}"`,
    };
    response.writeHead(302, headers).end();
  }

  async #answerStorage(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const request = this.#note("storage", message);
    const fault = this.fault(request, this.requests.filter(({ at }) => at === "storage").length);
    const url = new URL(request.path, this.#storage_url);
    const [, kind, id = "", path = ""] = /^\/(signed|plain)\/([^/]+\/[^/]+)\/(.*)$/.exec(url.pathname) ?? [];
    const content = this.repos.get(id)?.files[decodeURIComponent(path)];
    const signature = url.searchParams.get("signature") ?? "";
    const uses = this.#signed.get(signature) ?? 0;
    if (kind === "signed" && uses <= 0)
      return void response.writeHead(403).end("<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>");
    this.#signed.set(signature, uses - 1);
    if (content === undefined) return void response.writeHead(404).end();
    if (fault !== undefined && "status" in fault) return void response.writeHead(fault.status, fault.headers).end();
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(this.ranges ? (request.range ?? "") : "") ?? [];
    const from = Number(first ?? 0);
    const to = Math.min(content.bytes, last === undefined || last === "" ? content.bytes : Number(last) + 1);
    const limit =
      fault === undefined
        ? Number.POSITIVE_INFINITY
        : "cut_after" in fault
          ? fault.cut_after
          : "stall_after" in fault
            ? fault.stall_after
            : fault.end_after;
    // A body that ends too early with every sign of being whole.
    const length = fault !== undefined && "end_after" in fault ? Math.min(to - from, limit) : to - from;
    const partial = first === undefined ? {} : { "content-range": `bytes ${from}-${to - 1}/${content.bytes}` };
    response.writeHead(first === undefined ? 200 : 206, {
      "content-length": length,
      etag: this.etag,
      ...(this.ranges ? { "accept-ranges": "bytes" } : {}),
      ...partial,
    });
    response.on("error", () => {});
    for (let at = from; at < to; ) {
      const chunk = Math.min(CHUNK_BYTES, Math.ceil(this.pace_bytes_per_second / PACED_CHUNKS_PER_SECOND));
      const end = Math.min(to, at + chunk, from + limit);
      if (end > at && !response.write(content.slice(at, end))) await writable(response);
      if (response.destroyed) return;
      request.sent += end - at;
      if (Number.isFinite(this.pace_bytes_per_second))
        await new Promise((resolve) => setTimeout(resolve, (1000 * (end - at)) / this.pace_bytes_per_second));
      at = end;
      if (fault === undefined || at - from < limit) continue;
      if ("cut_after" in fault) return void setImmediate(() => message.socket.destroy());
      if ("stall_after" in fault) return;
      break;
    }
    response.end();
  }
}

/** Until there is room for more, or nobody there any more. */
function writable(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done).off("close", done);
      resolve();
    };
    response.on("drain", done).on("close", done);
  });
}

export function contentOf(buffer: Buffer): Content {
  return { bytes: buffer.length, slice: (from, to) => buffer.subarray(from, to) };
}

const hashes = new WeakMap<Content, string>();

export function hashOf(content: Content): string {
  const known = hashes.get(content);
  if (known !== undefined) return known;
  const hash = createHash("sha256");
  for (let at = 0; at < content.bytes; at += CHUNK_BYTES) hash.update(content.slice(at, Math.min(content.bytes, at + CHUNK_BYTES)));
  const made = hash.digest("hex");
  hashes.set(content, made);
  return made;
}

function entry(path: string, content: Content, repo: FakeRepo): object {
  const size = repo.wrong_bytes ?? content.bytes;
  const plain = { type: "file", path, size, oid: "1".repeat(40) };
  return /\.gguf$/.test(path) ? { ...plain, lfs: { oid: repo.wrong_sha256 ?? hashOf(content), size, pointerSize: 134 } } : plain;
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
}

async function listen(server: Server, address: string): Promise<string> {
  server.listen(0, address);
  await once(server, "listening");
  return `http://${address}:${(server.address() as AddressInfo).port}`;
}
