/** The verbs of `rbees-pool`: models and workers of this host. */

import { modelVerbs } from "./pool/model-verbs.ts";
import { systemVerbs } from "./pool/system-verbs.ts";
import { workerVerbs } from "./pool/worker-verbs.ts";
import type { Program } from "./program.ts";
import { tlsRequestVerbs } from "./tls/verbs.ts";

export const pool: Program = {
  name: "rbees-pool",
  summary: "Models and workers of this host.",
  orchestrator: false,
  groups: {
    models: "models of this host",
    worker: "workers of this host",
    backends: "what this host can generate on",
    tls: "certificates for the workers of this host",
  },
  examples: [
    "rbees-pool worker spawn cpu --model demo",
    "rbees-pool models download qwen",
    "rbees-pool worker list",
    "rbees-pool models register mine ./mine.gguf",
    "rbees-pool status --json",
  ],
  verbs: [...modelVerbs, ...workerVerbs, ...systemVerbs, ...tlsRequestVerbs],
};
