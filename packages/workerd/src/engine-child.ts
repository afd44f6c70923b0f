/**
 * The engine's own process. Native code can abort on a damaged model and takes its process with it: here that is not the worker.
 * It lives exactly as long as its parent: when the IPC channel closes it ends.
 */
import { writeSync } from "node:fs";
import { RbeesError } from "@rbees/contracts/errors";
import type { Engine, EngineOptions, StoredPrefixes } from "./engine.ts";
import { type Accepted, type FromEngine, REPORTS_FD, type ToEngine, type WireError } from "./engine-messages.ts";
import { chooseEngine } from "./engines.ts";

/** How often the parent hears how much memory this process holds. */
const MEMORY_REPORT_MS = 1_000;

let engine: Engine | undefined;

/** Waits where the parent is behind with reading. */
function send(message: FromEngine): void {
  try {
    let left = Buffer.from(`${JSON.stringify(message)}\n`, "utf8");
    while (left.length > 0) left = left.subarray(writeSync(REPORTS_FD, left));
  } catch (error) {
    // Nobody is left to hear it.
    if ((error as NodeJS.ErrnoException).code === "EPIPE") process.exit(0);
    throw error;
  }
}

function wireError(error: unknown): WireError {
  if (error instanceof RbeesError) return { code: error.code, message: error.message, details: error.details, param: error.param };
  return { code: "ENGINE_FAILED", message: error instanceof Error ? error.message : String(error) };
}

function receive(message: ToEngine): void {
  switch (message.type) {
    case "load":
      load(message.options).catch((error: unknown) => end(wireError(error)));
      return;
    case "start":
    case "embed":
    case "tokenize":
      begin(message).then(
        (accepted) => send({ type: "accepted", run: message.run, accepted }),
        (error: unknown) => send({ type: "refused", run: message.run, error: wireError(error) }),
      );
      return;
    case "end":
      process.exit(0);
      return;
    case "abort":
      engine?.abort(message.run);
      return;
    case "store":
      store().then(
        (stored) => send({ type: "stored", stored }),
        (error: unknown) => send({ type: "not_stored", problem: error instanceof Error ? error.message : String(error) }),
      );
  }
}

async function load(options: EngineOptions): Promise<void> {
  const chosen = await chooseEngine(options);
  engine = chosen.engine;
  if (chosen.instead_of !== undefined) send({ type: "fallback", reason: chosen.instead_of });
  const facts = await engine.load(options, {
    progress: (fraction) => send({ type: "progress", fraction }),
    step: (reports) => send({ type: "step", reports }),
    recalled: (stored) => send({ type: "recalled", stored }),
    counted: (counts) => send({ type: "counted", counts }),
  });
  reportMemory();
  setInterval(reportMemory, MEMORY_REPORT_MS).unref();
  send({ type: "loaded", facts });
}

async function begin(message: Extract<ToEngine, { type: "start" | "embed" | "tokenize" }>): Promise<Accepted> {
  if (engine === undefined) throw new RbeesError("ENGINE_FAILED", "No model is loaded.");
  switch (message.type) {
    case "start":
      return await engine.start(message.run, message.request);
    case "embed":
      return await engine.embed(message.run, message.request);
    case "tokenize":
      return await engine.tokenize(message.run, message.request);
  }
}

async function store(): Promise<StoredPrefixes | undefined> {
  return await engine?.store?.();
}

function reportMemory(): void {
  send({ type: "memory", bytes: process.memoryUsage.rss() + (engine?.program_bytes ?? 0) });
}

/** Says why and ends: after a failure in the engine nothing here can be relied on. */
function end(error: WireError): void {
  send({ type: "failed", error });
  process.exit(1);
}

process.on("message", receive);
process.on("disconnect", () => process.exit(0));
process.on("unhandledRejection", (error) => end(wireError(error)));
process.on("uncaughtException", (error) => end(wireError(error)));
// The terminal's Ctrl-C goes to the whole group; the worker drains first and then lets go of this process.
process.on("SIGINT", () => {});
process.on("SIGTERM", () => {});
