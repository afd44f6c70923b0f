/**
 * Who may register as which worker: join tokens, each good for one registration, and the credential that a worker has from then on.
 * Held in memory as the keys are, of each secret only the SHA-256; every use and refusal that a known secret led to has its audit entry.
 */
import { hash, timingSafeEqual } from "node:crypto";
import { RbeesError } from "@rbees/contracts/errors";
import { type InviteWorker, JOIN_MS_MAX, JOIN_TOKEN, type JoinToken, WORKER_CREDENTIAL } from "@rbees/contracts/join";
import { areaName } from "@rbees/contracts/regions";
import type { Access } from "@rbees/contracts/routes";
import type { RegisterWorker } from "@rbees/contracts/worker";
import { POOL_LABEL } from "@rbees/core/provision";
import { publicIdAndSecret, unauthorized } from "./keyring.ts";
import { auditChange } from "./record.ts";
import type { Change, Store } from "./store/port.ts";
import type { JoinTokenTable, WorkerCredentialTable } from "./store/schema.ts";

/** A used or expired token is remembered so long, to be told from one that never was. */
const KEPT_MS = 7 * JOIN_MS_MAX;
const NOBODY = Buffer.alloc(32);
const HOW =
  "Whoever operates this orchestrator makes a join token with `rbees workers invite`; `rbees pool worker spawn --host` does so by itself.";

/** How a caller that is a worker stands in the record: no key has a colon in its id. */
const JOINING = "join:";
const JOINED = "worker:";

/** What the registration is allowed by. */
interface Warrant {
  readonly pool: string | null;
  readonly address: string | null;
  /** Where the worker stands; null: where it says itself. */
  readonly region: string | null;
  readonly token: JoinTokenTable | undefined;
}

const UNBOUND = { pool: null, address: null, region: null } as const;

export interface CredentialPorts {
  /** A refusal could not be written down. */
  readonly fatal: (error: unknown) => void;
  /** Where pools stand: their workers, too. */
  readonly pool_regions: Readonly<Record<string, string>>;
}

export class WorkerCredentials {
  readonly #store: Store;
  readonly #fatal: (error: unknown) => void;
  readonly #pool_regions: Readonly<Record<string, string>>;
  readonly #tokens: Map<string, JoinTokenTable>;
  /** By the worker's id. */
  readonly #workers: Map<string, WorkerCredentialTable>;
  /** The worker's id by the SHA-256 of its secret. */
  readonly #by_secret = new Map<string, string>();
  /** Refusals that are in the record: each once, so that nobody can fill it. */
  readonly #noted = new Set<string>();

  private constructor(
    store: Store,
    tokens: readonly JoinTokenTable[],
    workers: readonly WorkerCredentialTable[],
    { fatal, pool_regions }: CredentialPorts,
  ) {
    this.#store = store;
    this.#fatal = fatal;
    this.#pool_regions = pool_regions;
    this.#tokens = new Map(tokens.map((row) => [row.id, row]));
    this.#workers = new Map();
    for (const row of workers) this.#hold(row);
  }

  static async open(store: Store, ports: CredentialPorts): Promise<WorkerCredentials> {
    const [tokens, workers] = [await store.listJoinTokens(Date.now() - KEPT_MS), await store.listWorkerCredentials()];
    return new WorkerCredentials(store, tokens, workers, ports);
  }

  /** `who` makes it: a key's id; undefined when nobody was asked. */
  async invite({ pool, worker_id, address, region, expires_in_ms }: InviteWorker, who: string | undefined): Promise<JoinToken> {
    const of_pool = pool === undefined ? undefined : this.#pool_regions[pool];
    if (region !== undefined && of_pool !== undefined && areaName(region) !== areaName(of_pool)) {
      const message = `region: pool ${pool} stands in ${of_pool}, as pool_regions of the orchestrator says, and not in ${region}`;
      throw new RbeesError("INVALID_REQUEST", message, { param: "region" });
    }
    const { id, secret } = publicIdAndSecret();
    const now_ms = Date.now();
    for (const [old, { created_at_ms }] of this.#tokens) if (created_at_ms < now_ms - KEPT_MS) this.#tokens.delete(old);
    const row: JoinTokenTable = {
      id,
      secret_sha256: hash("sha256", secret, "hex"),
      pool: pool ?? null,
      worker_id: worker_id ?? null,
      address: address ?? null,
      region: region ?? of_pool ?? null,
      created_at_ms: now_ms,
      expires_at_ms: now_ms + expires_in_ms,
      used_at_ms: null,
      used_by: null,
    };
    const bound = {
      ...{ pool: row.pool, worker_id: row.worker_id, address: row.address, region: row.region },
      expires_at: new Date(row.expires_at_ms).toISOString(),
    };
    await this.#store.commit([
      { table: "join_tokens", insert: row },
      auditChange("worker.invited", { token_id: id, ...bound }, { now_ms, who }),
    ]);
    this.#tokens.set(id, row);
    return { token_id: id, ...bound, token: `rbj_${id}_${secret}` };
  }

  /** Who it is that shows this, if it may do that: `join:` and a token's id, `worker:` and a worker's. Undefined: it is neither. */
  authorize(access: Access, registers: boolean, given: string | undefined): string | undefined {
    if (access === "everybody" || given === undefined) return undefined;
    const [, id = "", secret = ""] = JOIN_TOKEN.exec(given) ?? [];
    const credential = WORKER_CREDENTIAL.exec(given)?.[1];
    if (id === "" && credential === undefined) return undefined;
    if (!access.includes("worker"))
      throw new RbeesError("FORBIDDEN", "That opens a worker's own routes and nothing else; this needs an API key.");
    if (credential !== undefined) return this.#joined(credential);
    if (!registers) throw new RbeesError("FORBIDDEN", "A join token opens the registry, once; from then on a worker shows its credential.");
    const token = this.#tokens.get(id);
    const same = timingSafeEqual(hash("sha256", secret, "buffer"), token === undefined ? NOBODY : Buffer.from(token.secret_sha256, "hex"));
    if (token === undefined || !same) throw unauthorized(`This join token is not known here. ${HOW}`);
    this.#checkUnused(token);
    return JOINING + id;
  }

  #joined(secret: string): string {
    const sha256 = hash("sha256", secret, "hex");
    const worker_id = this.#by_secret.get(sha256);
    const row = worker_id === undefined ? undefined : this.#workers.get(worker_id);
    if (row === undefined) throw unauthorized(`This worker's credential is not known here. ${HOW}`);
    if (row.ended_at_ms !== null) {
      this.#note(`credential:${sha256}`, { worker_id: row.id, reason: "its credential has ended" });
      throw unauthorized(`The credential of worker ${row.id} has ended. ${HOW}`);
    }
    return JOINED + row.id;
  }

  #checkUnused({ id, expires_at_ms, used_at_ms, used_by }: JoinTokenTable): void {
    if (used_at_ms !== null) {
      this.#note(`used:${id}`, { token_id: id, reason: "the join token was used before", used_by });
      throw unauthorized(`The join token ${id} was used at ${new Date(used_at_ms).toISOString()}, and is good for once. ${HOW}`);
    }
    if (expires_at_ms > Date.now()) return;
    this.#note(`expired:${id}`, { token_id: id, reason: "the join token has expired" });
    throw unauthorized(`The join token ${id} expired at ${new Date(expires_at_ms).toISOString()}. ${HOW}`);
  }

  /** A report comes from the worker that it is about, or from whoever operates. */
  checkSelf(who: string | undefined, worker_id: string): void {
    if (who === undefined || !who.startsWith(JOINED) || who === JOINED + worker_id) return;
    const reason = `it reported for ${worker_id.slice(0, 128)}`;
    this.#note(`other:${who}`, { worker_id: who.slice(JOINED.length), reason });
    throw new RbeesError("FORBIDDEN", `This is the credential of ${who}; it can't speak for worker ${worker_id.slice(0, 128)}.`);
  }

  /** What allows this registration; throws the refusal. With nobody asked (`who` undefined), everything is allowed. */
  warrant(body: RegisterWorker, who: string | undefined): Warrant {
    if (who === undefined) return { ...UNBOUND, token: undefined };
    const { id, labels, door, credential_sha256, region: said } = body;
    const refuse = (reason: string, sentence: string): never => {
      this.#note(`${who}:${reason}`, { worker_id: id, by: who, reason });
      throw new RbeesError("FORBIDDEN", sentence);
    };
    if (door === undefined) {
      throw new RbeesError(
        "FORBIDDEN",
        `Worker ${id} would answer anybody, and this orchestrator asks for keys: start it without --insecure-no-auth.`,
      );
    }
    const token = who.startsWith(JOINING) ? this.#tokens.get(who.slice(JOINING.length)) : undefined;
    if (token === undefined) this.checkSelf(who, id);
    else this.#checkUnused(token);
    const known = this.#workers.get(id);
    const { pool, address, region } = token ?? known ?? UNBOUND;
    if (token !== undefined) {
      if (token.worker_id !== null && token.worker_id !== id) {
        return refuse("another name", `The join token ${token.id} is for worker ${token.worker_id}, not for ${id}.`);
      }
      if (token.worker_id === null && known !== undefined && known.ended_at_ms === null && known.pool !== pool) {
        return refuse("a name of another pool", `${id} is the name of a worker of ${known.pool ?? "no pool"}; choose another with --name.`);
      }
      if (credential_sha256 === undefined || ![id, undefined].includes(this.#by_secret.get(credential_sha256))) {
        throw new RbeesError(
          "INVALID_REQUEST",
          "With a join token a worker sends credential_sha256: of a secret that is its own and nobody else's.",
        );
      }
    }
    const whose = token === undefined ? "The credential" : `The join token ${token.id}`;
    if (region !== null && said !== undefined && areaName(said) !== areaName(region)) {
      return refuse(
        "another region",
        `${whose} is for a worker in ${region}, and the worker says that it stands in ${said}. Start it with --region ${region}, or invite it anew.`,
      );
    }
    const claimed = labels[POOL_LABEL];
    if (claimed !== undefined && claimed !== pool) {
      return refuse(
        "another pool",
        `${whose} is for ${pool === null ? "no pool" : `pool ${pool}`}, and the worker says that it is of pool ${claimed}.`,
      );
    }
    return { pool, address, region, token };
  }

  /** Uses up the token and gives the worker its credential. In the same turn as the event that registers it: one transaction. */
  admit(body: RegisterWorker, { token, pool, address, region }: Warrant): Promise<void> {
    const { id, credential_sha256 } = body;
    if (token === undefined || credential_sha256 === undefined) return Promise.resolve();
    const now_ms = Date.now();
    const used = { used_at_ms: now_ms, used_by: id };
    this.#tokens.set(token.id, { ...token, ...used });
    const row: WorkerCredentialTable = {
      id,
      secret_sha256: credential_sha256,
      pool,
      address,
      region,
      joined_at_ms: now_ms,
      ended_at_ms: null,
    };
    const { id: _, ...again } = row;
    const credential: Change = this.#workers.has(id)
      ? { table: "worker_credentials", id, update: again }
      : { table: "worker_credentials", insert: row };
    this.#hold(row);
    return this.#store.commit([
      { table: "join_tokens", id: token.id, update: used },
      credential,
      auditChange("worker.admitted", { worker_id: id, token_id: token.id, pool, region }, { now_ms, who: JOINING + token.id }),
    ]);
  }

  /** Ends the worker's credential; whether it had one. */
  async expel(id: string, who: string | undefined): Promise<boolean> {
    const row = this.#workers.get(id);
    if (row === undefined || row.ended_at_ms !== null) return false;
    const now_ms = Date.now();
    // Before it is durable: nobody gets in with it while that is on its way.
    this.#hold({ ...row, ended_at_ms: now_ms });
    await this.#store.commit([
      { table: "worker_credentials", id, update: { ended_at_ms: now_ms } },
      auditChange("worker.expelled", { worker_id: id }, { now_ms, who }),
    ]);
    return true;
  }

  #hold(row: WorkerCredentialTable): void {
    const before = this.#workers.get(row.id);
    if (before !== undefined) this.#by_secret.delete(before.secret_sha256);
    this.#workers.set(row.id, row);
    this.#by_secret.set(row.secret_sha256, row.id);
  }

  #note(once: string, fields: Record<string, string | null>): void {
    if (this.#noted.has(once)) return;
    this.#noted.add(once);
    this.#store.commit([auditChange("worker.refused", fields, { now_ms: Date.now() })]).catch(this.#fatal);
  }
}
