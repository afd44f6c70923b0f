/**
 * The worker's place in the orchestrator's registry: registers once it listens, beats, registers again when it is not known any
 * more, keeps trying while the orchestrator is away, and leaves when it stops.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Client, createClient } from "@rbees/contracts/client";
import { type ErrorCode, RbeesError } from "@rbees/contracts/errors";
import { orcdRoutes } from "@rbees/contracts/routes";
import type { Beat, RegisterWorker } from "@rbees/contracts/worker";
import type { Log } from "@rbees/kit/log";
import type { Pass } from "./worker-secrets.ts";

export interface EnlistLimits {
  /** First wait after a failure; doubles with each, up to the most, each ± half of it by chance. */
  backoff_ms: number;
  backoff_max_ms: number;
  /** How long one call may take. */
  call_ms: number;
  /** How long leaving may take. */
  leave_ms: number;
}
export const ENLIST_LIMITS: EnlistLimits = { backoff_ms: 500, backoff_max_ms: 15_000, call_ms: 5_000, leave_ms: 2_000 };

/** After so many calls in vain, some ten seconds, it is said to be not registered: by then the orchestrator has missed it, or is elsewhere. */
const FAILURES_UNNOTICED_MAX = 5;

const HOW_JOIN = "`rbees workers invite` makes one on the operator's machine, --join-token-file names the file with it here";

/** Refusals of which somebody has to hear more than that there is no orchestrator. */
const REFUSED: { readonly [code in ErrorCode]?: string } = {
  UNAUTHORIZED: `the orchestrator wants a join token (${HOW_JOIN}); trying on`,
  FORBIDDEN: "the orchestrator does not let this worker in; trying on",
  PROTOCOL_MISMATCH: "this worker and the orchestrator are too far apart in version; trying on, in case that one is upgraded",
};

export interface EnlistOptions {
  url: string;
  registration: RegisterWorker;
  /** What it shows the orchestrator; undefined: nothing. */
  pass?: Pass | undefined;
  /** Trusts the authority of the orchestrator; without it, the well-known ones. */
  fetch?: typeof fetch | undefined;
  beat: () => Omit<Beat, "epoch" | "seq">;
  log: Log;
  /** A newer life of this worker is registered: this one must end. */
  on_fenced: (error: RbeesError) => void;
  limits?: EnlistLimits;
}

export class Enlist {
  readonly #options: EnlistOptions;
  readonly #limits: EnlistLimits;
  readonly #client: Client<typeof orcdRoutes>;
  readonly #stop = new AbortController();
  /** Later than `#stop`: a registration may still come to its end. */
  readonly #left = new AbortController();
  #wake = new AbortController();
  #loop: Promise<void> | undefined;
  #registered = false;
  #failures = 0;
  /** What the log says of the failures so far; it says so again only when that changes. */
  #trouble: string | undefined;
  #beats = 0;

  constructor(options: EnlistOptions) {
    this.#options = options;
    this.#limits = options.limits ?? ENLIST_LIMITS;
    this.#client = createClient(orcdRoutes, options.url, options.fetch === undefined ? {} : { fetch: options.fetch });
  }

  /** Whether the orchestrator knows this worker, as far as the last answer says; false as well when it has not answered for a while. */
  get registered(): boolean {
    return this.#registered && this.#failures < FAILURES_UNNOTICED_MAX;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Says at once what has changed, such as that the worker drains. */
  beatNow(): void {
    this.#wake.abort();
  }

  /** Leaves the registry; an orchestrator that is away will notice the silence instead. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wake.abort();
    // A registration that is under way may have been let in already, and only who knows that it is in can leave.
    const late = setTimeout(() => this.#left.abort(), this.#limits.leave_ms);
    await this.#loop;
    clearTimeout(late);
    if (!this.#registered) return;
    this.#registered = false;
    const { registration, log } = this.#options;
    try {
      await this.#client.call(
        "removeWorker",
        { params: { id: registration.id }, query: { epoch: registration.epoch } },
        { signal: AbortSignal.timeout(this.#limits.leave_ms), headers: this.#headers() },
      );
      log.info("left the registry");
    } catch (error) {
      log.warn({ reason: messageOf(error) }, "could not leave the registry");
    }
  }

  async #run(): Promise<void> {
    let heartbeat_ms = 0;
    while (!this.#stop.signal.aborted) {
      try {
        if (this.#registered) await this.#beat();
        else heartbeat_ms = await this.#register();
        this.#failures = 0;
        this.#trouble = undefined;
        await this.#pause(heartbeat_ms);
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        const { code } = error instanceof RbeesError ? error : { code: "UNREACHABLE" };
        if (code === "CONFLICT") return this.#fenced(error as RbeesError);
        if (code === "NOT_FOUND" && this.#registered) {
          this.#registered = false;
          this.#options.log.info("the orchestrator does not know this worker any more: registering again");
          continue;
        }
        if (code === "UNAUTHORIZED") {
          this.#registered = false;
          this.#options.pass?.refused();
        }
        await this.#backOff(error);
      }
    }
  }

  async #register(): Promise<number> {
    const { registration, url, log, pass } = this.#options;
    const body = { ...registration, credential_sha256: pass?.credential_sha256 };
    const call = this.#call(this.#left);
    const headers = { ...call.headers, "x-rbees-worker": registration.id };
    const { heartbeat_ms } = await this.#client.call("registerWorker", { body }, { ...call, headers });
    pass?.registered();
    this.#registered = true;
    log.info({ orchestrator: url, heartbeat_ms }, "registered");
    return heartbeat_ms;
  }

  async #beat(): Promise<void> {
    const { registration, beat } = this.#options;
    this.#beats += 1;
    const body = { ...beat(), epoch: registration.epoch, seq: this.#beats };
    await this.#client.call("beat", { params: { id: registration.id }, body }, this.#call(this.#stop));
  }

  async #backOff(error: unknown): Promise<void> {
    const { backoff_ms, backoff_max_ms } = this.#limits;
    const wait_ms = Math.min(backoff_max_ms, backoff_ms * 2 ** Math.min(this.#failures, 16)) * (0.5 + Math.random());
    const code = error instanceof RbeesError ? error.code : undefined;
    const trouble = (code && REFUSED[code]) ?? "can't reach the orchestrator; trying on";
    if (trouble !== this.#trouble) this.#options.log.warn({ orchestrator: this.#options.url, code, reason: messageOf(error) }, trouble);
    this.#trouble = trouble;
    this.#failures++;
    await this.#pause(wait_ms);
  }

  #fenced(error: RbeesError): void {
    this.#registered = false;
    this.#options.on_fenced(error);
  }

  #call(until: AbortController): { signal: AbortSignal; headers: Record<string, string> } {
    return { signal: AbortSignal.any([until.signal, AbortSignal.timeout(this.#limits.call_ms)]), headers: this.#headers() };
  }

  #headers(): Record<string, string> {
    const { pass } = this.#options;
    return pass === undefined ? {} : { authorization: `Bearer ${pass.bearer}` };
  }

  /** Waits, unless woken; a wake-up from before the wait counts. */
  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#wake.signal }).catch(() => {});
    if (!this.#stop.signal.aborted) this.#wake = new AbortController();
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
