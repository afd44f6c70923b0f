/**
 * A worker program for tests, with the flags of `rbees-workerd`. The model's name says how it behaves: `dies`, `never-ready`,
 * `stubborn` (ends only when killed), `busy` (drains until told twice), `refused` (is not registered); any other is good.
 */
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { createLog, silentLog } from "@rbees/kit/log";

const text = { type: "string" } as const;
const names = ["model", "model-name", "worker-id", "backend", "gpu", "host", "port", "slots", "ctx", "threads", "measured-bytes"] as const;
const more = ["join-token-file", "orchestrator", "advertise-host", "region", "labels", "log-format"] as const;
/** What it writes down that it was asked for. */
const engine = [
  "engine",
  "engine-path",
  "engine-features",
  "engine-url",
  "gpu-layers",
  "cache-type",
  "prefix-cache-bytes-max",
  "prefix-cache-dir",
  "speculate",
  "prefill-chunk-tokens",
  "prefill-stretch-max",
  "lora",
] as const;
const options = Object.fromEntries([...names, ...more, ...engine].map((name) => [name, text]));
const { values } = parseArgs({
  options: { ...options, deterministic: { type: "boolean" }, "insecure-no-auth": { type: "boolean" }, version: { type: "boolean" } },
});
const flag = (name: string) => String(values[name as keyof typeof values] ?? "");

async function main(): Promise<void> {
  if (values.version) return void process.stdout.write("rbees-workerd 0.1.0\n");
  const log = createLog("rbees-workerd", { level: "info", format: "json" });
  const model = flag("model-name");
  readFileSync(flag("model"));
  if (flag("measured-bytes") !== "") log.info({ measured_bytes: flag("measured-bytes") }, "told");
  for (const name of engine) if (flag(name) !== "") log.info({ [name.replaceAll("-", "_")]: flag(name) }, "asked for");
  log.info({ progress: 0.5 }, "loading");
  if (model === "dies") {
    log.error("the model does not fit");
    process.stderr.write("rbees-workerd: the model needs 9 GB and 2 GB are free\n");
    process.exit(1);
  }
  if (model === "never-ready") return void createServer().listen(0, "127.0.0.1");
  // Only now: most of what it loads is the web framework.
  const { createClient } = await import("@rbees/contracts/client");
  const { orcdRoutes, workerdRoutes } = await import("@rbees/contracts/routes");
  const { encodeEvent } = await import("@rbees/contracts/sse");
  const { Backend } = await import("@rbees/contracts/worker");
  const { fingerprint } = await import("@rbees/kit/fingerprint");
  const { readModel } = await import("@rbees/kit/gguf-split");
  const { serve } = await import("@rbees/kit/http");
  const { end, started, token } = await import("./fake-orchestrator.ts");
  const [host, port, slots] = [flag("host"), Number(flag("port")), Number(flag("slots") || 4)];
  process.on("SIGTERM", () => {
    if (model !== "stubborn") process.exit(0);
  });
  const model_digest = await fingerprint(flag("model"), await readModel(flag("model"))).catch(() => "sha256:00");
  await serve(
    workerdRoutes,
    {
      execute: () => ({
        events(stream) {
          for (const event of [started, token("Hello"), token(" there", 1), end]) stream.writeText(encodeEvent(event));
          stream.end();
        },
      }),
      embed: () => ({ events: (stream) => stream.end() }),
      tokenize: () => ({ json: { tokens_in: 1 } }),
      cancel: () => ({ status: 202, json: { cancelled: true } }),
      health: () => ({
        json: {
          status: "ready" as const,
          worker_id: flag("worker-id"),
          version: "0.1.0",
          model,
          model_digest,
          backend: Backend.parse(flag("backend")),
          device: "fake",
          slots,
          slots_busy: 0,
          context_size: 512,
          cache_type: "f16" as const,
          prefix_cache_bytes: 0,
          prefix_cache_bytes_max: 0,
          speculate_tokens_max: 0,
          deterministic: values.deterministic === true,
          tokens_per_second: 12.5,
          memory_bytes: 5_000_000,
          pid: process.pid,
          uptime_seconds: Math.round(process.uptime()),
          registered: model !== "refused",
          closed: false,
          engine: { name: "fake", version: "1" },
          features: [],
        },
      }),
      metrics: () => ({ text: "" }),
      shutdown() {
        log.info("draining");
        if (model !== "stubborn" && model !== "busy") setImmediate(() => process.exit(0));
        return { status: 202, json: { status: "draining" as const } };
      },
    },
    { host, port, log: silentLog(), body_bytes_max: 1_000_000, ping_ms: 15_000 },
  );
  if (model === "refused") log.warn({ reason: "The join token was used before." }, "refused");
  else if (flag("orchestrator") !== "none") {
    await createClient(orcdRoutes, flag("orchestrator")).call("registerWorker", {
      body: { id: flag("worker-id"), host, port, model, slots },
    });
  }
  log.info({ port, slots }, "ready");
}

await main().catch((error: Error) => {
  process.stderr.write(`rbees-workerd: ${error.message}\n`);
  process.exit(1);
});
