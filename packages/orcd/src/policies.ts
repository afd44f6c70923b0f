/**
 * The rules that are in force: read from their file at the start and when told so, each time with an entry in the audit trail before they
 * hold. A file that is not valid changes nothing. The core gets them as a pure function, which remembers what it has said.
 */
import { hash } from "node:crypto";
import { readFileSync } from "node:fs";
import { RbeesError } from "@rbees/contracts/errors";
import type { PolicyView } from "@rbees/contracts/policy";
import type { Demand } from "@rbees/core/demand";
import type { Gate, Verdict } from "@rbees/core/gate";
import { POOL_LABEL } from "@rbees/core/provision";
import type { JobSpec, WorkerSpec } from "@rbees/core/state";
import type { Log } from "@rbees/kit/log";
import type { JobFacts, WorkerFacts } from "@rbees/kit/policy/facts";
import type { Policy, Ruling } from "@rbees/kit/policy/policy";
import { wallTime } from "./clock.ts";
import { auditChange } from "./record.ts";
import type { Store } from "./store/port.ts";

export interface PolicyPorts {
  /** Empty: there are no rules. */
  readonly file: string;
  readonly store: Store;
  readonly log: Log;
  readonly keyName: (key_id: string) => string;
  /** Jobs that have not ended. */
  readonly jobs: () => Iterable<JobSpec>;
  readonly tell: (event: { type: "policy.set"; gate: Gate | null; demands: ReadonlyMap<string, readonly Demand[]> }) => void;
}

// Not that of `policy.ts`: its library is loaded only where there are rules.
const UNRULED: Ruling = {
  ...{ denied: null, demands: [], priority: undefined, max_tokens: undefined, content_keep_ms: undefined, rules: [] },
};

export class Policies {
  readonly #ports: PolicyPorts;
  #policy: Policy | undefined;
  #loaded_at: string | null = null;
  /** How many jobs each rule held for. */
  #held = new Map<string, number>();
  /** One load after the other. */
  #loading: Promise<unknown> = Promise.resolve();

  private constructor(ports: PolicyPorts) {
    this.#ports = ports;
  }

  /** Throws when the file is not valid: an orchestrator that was told rules does not start without them. */
  static async open(ports: PolicyPorts): Promise<Policies> {
    const policies = new Policies(ports);
    if (ports.file !== "") await policies.reload(undefined);
    return policies;
  }

  /** `who` loads them: a key's id; undefined when nobody was asked, or it was a signal. */
  reload(who: string | undefined): Promise<PolicyView> {
    const loaded = this.#loading.then(() => this.#load(who));
    this.#loading = loaded.catch(() => {});
    return loaded;
  }

  async #load(who: string | undefined): Promise<PolicyView> {
    const { file, store, log, jobs, tell } = this.#ports;
    if (file === "")
      throw new RbeesError("CONFLICT", "This orchestrator has no rules: start it with --policy-file FILE, and then load them again.");
    const text = textOf(file);
    const note = (kind: string, fields: Record<string, string | number>) =>
      store.commit([auditChange(kind, { file, ...fields }, { now_ms: Date.now(), who })]);
    const { readPolicy } = await import("@rbees/kit/policy/rule-file");
    let policy: Policy;
    try {
      policy = readPolicy(file, text);
    } catch (error) {
      await note("policy.refused", { sha256: hash("sha256", text, "hex") });
      throw error;
    }
    const { sha256, mode, rules } = policy;
    await note("policy.loaded", { sha256, mode, rules: rules.length });
    // From here on nothing waits: whoever comes next is judged by these, and whoever waits already too.
    this.#policy = policy;
    this.#held = new Map();
    this.#loaded_at = new Date().toISOString();
    const demands = new Map([...jobs()].map((spec) => [spec.id, this.#ruling(spec).demands]));
    tell({ type: "policy.set", gate: this.#gate(policy), demands });
    log.info({ file, sha256, mode, rules: rules.length }, "rules loaded");
    return this.view();
  }

  /** What they say of a job that comes. */
  rule(spec: JobSpec): Ruling {
    const ruling = this.#ruling(spec);
    for (const name of ruling.rules) this.#held.set(name, (this.#held.get(name) ?? 0) + 1);
    return ruling;
  }

  /** The same of one that was let in before. */
  demandsOn(spec: JobSpec): readonly Demand[] {
    return this.#ruling(spec).demands;
  }

  view(): PolicyView {
    const policy = this.#policy;
    if (policy === undefined) return { file: null, sha256: null, mode: "enforce", timezone: "UTC", loaded_at: null, rules: [] };
    const { file, sha256, mode, timezone, rules } = policy;
    const shown = rules.map((rule) => {
      const { name, when } = rule;
      const effects = (["allow", "deny", "require", "prefer", "set", "log"] as const).filter((effect) => rule[effect] !== undefined);
      return { name, when, effects, jobs: this.#held.get(mode === "log_only" ? `log_only:${name}` : name) ?? 0 };
    });
    return { file, sha256, mode, timezone, loaded_at: this.#loaded_at, rules: shown };
  }

  #ruling(spec: JobSpec): Ruling {
    return this.#policy === undefined ? UNRULED : this.#policy.rule(this.#facts(spec));
  }

  #facts(spec: JobSpec): JobFacts {
    const { tenant, key, model, priority, prompt_tokens, max_tokens, deadline_at_ms, submitted_at_ms, metadata, labels } = spec;
    const deadline_ms = deadline_at_ms === null ? 0 : deadline_at_ms - submitted_at_ms;
    return {
      tenant,
      key: key === null ? { id: "", name: "" } : { id: key, name: this.#ports.keyName(key) },
      model,
      job: { priority, prompt_tokens, max_tokens, deadline_ms, metadata, labels },
      at_ms: wallTime(submitted_at_ms),
    };
  }

  /** Evaluated once for a job and workers that are alike; nothing is kept of a job longer than of its spec. */
  #gate(policy: Policy): Gate | null {
    if (!policy.asks_workers) return null;
    const by_id = policy.rules.some(({ when }) => /\bid\b/.test(when));
    const said = new WeakMap<JobSpec, { facts: JobFacts; verdicts: Map<string, Verdict> }>();
    const known = new WeakMap<WorkerSpec, { facts: WorkerFacts; key: string }>();
    return (job, worker) => {
      let of_worker = known.get(worker);
      if (of_worker === undefined) {
        const facts = workerFacts(worker);
        of_worker = { facts, key: JSON.stringify(by_id ? facts : { ...facts, id: "" }) };
        known.set(worker, of_worker);
      }
      let of_job = said.get(job);
      if (of_job === undefined) {
        of_job = { facts: this.#facts(job), verdicts: new Map() };
        said.set(job, of_job);
      }
      let verdict = of_job.verdicts.get(of_worker.key);
      if (verdict === undefined) {
        verdict = policy.judge(of_job.facts, of_worker.facts);
        of_job.verdicts.set(of_worker.key, verdict);
      }
      return verdict;
    };
  }
}

function workerFacts({ id, areas, backend, labels, trust, slots, context_size }: WorkerSpec): WorkerFacts {
  return { id, region: areas[0] ?? "", backend, pool: labels[POOL_LABEL] ?? "", trust, slots, context_size: context_size ?? 0, labels };
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new RbeesError("INVALID_REQUEST", `The rules in ${file} can't be read: ${(error as Error).message}.`, { cause: error });
  }
}
