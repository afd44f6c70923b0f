/**
 * What this worker and its orchestrator know each other by. Its door: a secret of this life, which callers must show; the orchestrator
 * is told it at registration, and rbees-pool on this host reads it from a file. Its credential: what it shows the orchestrator, of its
 * own making, kept from life to life; a join token makes the orchestrator accept it.
 */
import { hash, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { RbeesError } from "@rbees/contracts/errors";
import { CREDENTIAL, readSecretFile } from "@rbees/kit/key-file";
import { writePrivateFile } from "@rbees/kit/private-file";
import { workerFile } from "@rbees/kit/worker-files";

function secret(): string {
  return randomBytes(32).toString("base64url");
}

/** What callers must show. Of this life alone. */
export class Door {
  readonly secret = secret();
  readonly #sha256 = hash("sha256", this.secret, "buffer");

  /** Health answers whoever shows nothing; a wrong secret is told there too, so that the orchestrator knows whom it has reached. */
  check(route: string, { authorization }: IncomingHttpHeaders): void {
    if (route === "health" && authorization === undefined) return;
    const given = /^Bearer +(\S+) *$/i.exec(authorization ?? "")?.[1] ?? "";
    if (timingSafeEqual(hash("sha256", given, "buffer"), this.#sha256)) return;
    const message =
      given === ""
        ? "This worker answers its orchestrator and the rbees-pool of its host, and you have shown no secret: send jobs to the orchestrator."
        : "This worker has another secret; it makes a new one each time it starts. Send jobs to its orchestrator.";
    throw new RbeesError("UNAUTHORIZED", message, { headers: { "www-authenticate": 'Bearer realm="rbees-workerd"' } });
  }

  keepFor(folder: string, worker_id: string): void {
    writePrivateFile(workerFile(folder, worker_id, "door"), `${this.secret}\n`);
  }
}

/** What it shows the orchestrator, and which of the two is next when one is refused. */
export class Pass {
  readonly #credential: string;
  readonly #token: string | undefined;
  #shows: "credential" | "token";

  constructor(folder: string, worker_id: string, join_token: string | undefined) {
    const file = workerFile(folder, worker_id, "credential");
    const kept = readSecretFile(file, false, CREDENTIAL);
    this.#credential = kept ?? `rbw_${secret()}`;
    this.#token = join_token;
    this.#shows = kept === undefined && join_token !== undefined ? "token" : "credential";
    // Before it is shown to anybody: an answer that is lost on the way must not cost the token.
    if (kept === undefined) writePrivateFile(file, `${this.#credential}\n`);
  }

  static isKept(folder: string, worker_id: string): boolean {
    return readSecretFile(workerFile(folder, worker_id, "credential"), false, CREDENTIAL) !== undefined;
  }

  get bearer(): string {
    return this.#shows === "token" && this.#token !== undefined ? this.#token : this.#credential;
  }

  /** What a registration with a token says of the credential that follows it. */
  get credential_sha256(): string | undefined {
    return this.#shows === "token" ? hash("sha256", this.#credential.slice("rbw_".length), "hex") : undefined;
  }

  registered(): void {
    this.#shows = "credential";
  }

  refused(): void {
    if (this.#token !== undefined) this.#shows = this.#shows === "token" ? "credential" : "token";
  }
}
