/** The verbs of `rbees`, which is also `llorch`: jobs, workers and models of an orchestrator, and a whole system on this host. */
import { auditVerbs } from "./audit/verbs.ts";
import { batchVerbs } from "./batch-verbs.ts";
import { gdprVerbs } from "./gdpr-verbs.ts";
import { jobVerbs } from "./jobs/verbs.ts";
import { keyVerbs } from "./key-verbs.ts";
import { localVerbs } from "./local/verbs.ts";
import { policyVerbs } from "./policy-verbs.ts";
import type { Program } from "./program.ts";
import { registryVerbs } from "./registry-verbs.ts";
import { remoteGroups, remoteVerbs } from "./remote/verbs.ts";
import { simulateVerbs } from "./simulate/verbs.ts";
import { supportVerbs } from "./support/verbs.ts";
import { tenantVerbs } from "./tenant-verbs.ts";
import { tlsVerbs } from "./tls/verbs.ts";

export const rbees: Program = {
  name: "rbees",
  summary: "Language models on machines you already own: jobs, workers, models.",
  orchestrator: true,
  groups: {
    jobs: "submit and follow jobs",
    batches: "many requests in one file, answered while nobody waits",
    workers: "workers of the orchestrator",
    models: "models that can be asked for",
    audit: "the record of what was done",
    keys: "who may ask the orchestrator, and for what",
    tenants: "those who share the workers, and what each may use",
    gdpr: "what is kept of one person, its erasure, consent",
    policy: "the rules that say who may run what where",
    tls: "the authority of this machine and its certificates",
    test: "what works on your machines",
    ...remoteGroups,
  },
  examples: ["rbees up", 'rbees jobs submit --model demo --prompt "Write a haiku about Rust"', "rbees jobs list", "rbees down"],
  verbs: [
    ...jobVerbs,
    ...batchVerbs,
    ...registryVerbs,
    ...keyVerbs,
    ...tenantVerbs,
    ...gdprVerbs,
    ...policyVerbs,
    ...tlsVerbs,
    ...localVerbs,
    ...remoteVerbs,
    ...simulateVerbs,
    ...auditVerbs,
    ...supportVerbs,
  ],
};
