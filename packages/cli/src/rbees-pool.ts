#!/usr/bin/env node
/** `rbees-pool`: models and workers of this host. One of the two files that may end the process. */
import { start } from "./start.ts";

await start(
  import.meta.url,
  process.argv,
  (code) => process.exit(code),
  async () => (await import("./pool-verbs.ts")).pool,
);
