/** An orchestrator program for tests, with the flags of `rbees-orcd` that `rbees up` gives. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { environment } from "@rbees/kit/config";
import { homeOf } from "@rbees/kit/home";

const text = { type: "string" } as const;
const options = { host: text, port: text, "log-format": text, version: { type: "boolean" } } as const;
const { values, positionals } = parseArgs({ options, allowPositionals: true });
if (values.version) {
  process.stdout.write("0.1.0\n");
} else if (positionals[0] === "config") {
  const file = join(homeOf(environment()).config, "config.toml");
  if (existsSync(file) && readFileSync(file, "utf8").includes("wrong")) {
    process.stderr.write(`rbees-orcd: The configuration is not valid:\n  port (file ${file}): must be a whole number\n  x: unknown\n`);
    process.exitCode = 2;
  }
} else {
  // Only now: most of what it loads is the web framework.
  const { end, fakeOrchestrator, queued, started, token } = await import("./fake-orchestrator.ts");
  await fakeOrchestrator({ events: [queued(), started, token("Hello"), end], text: "Hello" }, Number(values.port));
  process.on("SIGTERM", () => process.exit(0));
}
