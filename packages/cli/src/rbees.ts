#!/usr/bin/env node
/** `rbees`, also installed as `llorch`: the operator's command line. One of the two files that may end the process. */
import { basename } from "node:path";
import { start } from "./start.ts";

await start(
  import.meta.url,
  process.argv,
  (code) => process.exit(code),
  async () => {
    const { rbees } = await import("./rbees-verbs.ts");
    return basename(process.argv[1] ?? "").startsWith("llorch") ? { ...rbees, name: "llorch" } : rbees;
  },
);
