/** An orchestrator program for tests, with the flags of `rbees-orcd` that `rbees up` gives. */
import { parseArgs } from "node:util";
import { end, fakeOrchestrator, queued, started, token } from "./fake-orchestrator.ts";

const text = { type: "string" } as const;
const { values } = parseArgs({ options: { host: text, port: text, "log-format": text, version: { type: "boolean" } } });
if (values.version) {
  process.stdout.write("0.1.0\n");
} else {
  await fakeOrchestrator({ events: [queued(), started, token("Hello"), end], text: "Hello" }, Number(values.port));
  process.on("SIGTERM", () => process.exit(0));
}
