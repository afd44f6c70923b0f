/** An act on a pool's machine is told to the orchestrator before it happens, and how it ended after; where that can't be written, it does not happen. */
import { EXIT, RbeesError } from "@rbees/contracts/errors";
import type { POOL_ACTS } from "@rbees/contracts/sets";
import type { Context } from "../context.ts";
import { DEFAULT_URL, orchestratorOf } from "../orchestrator.ts";
import type { Errand } from "../verb.ts";

type Act = (typeof POOL_ACTS)[number];

/** Verbs of `rbees-pool` that change what is there or what runs. */
const ACTS: Readonly<Record<string, Act>> = {
  "models download": "model.download",
  "models delete": "model.delete",
  "models register": "model.register",
  "worker spawn": "worker.spawn",
  "models unregister": "model.unregister",
  "worker stop": "worker.stop",
  "worker stop-all": "worker.stop",
  "worker restart": "worker.restart",
};
/** Flags that say which model or worker it is about. */
const ABOUT = new Set(["--model", "--name"]);

/** `go` does it and gives the exit code. */
export async function recorded(context: Context, errand: Errand, go: () => Promise<number>): Promise<number> {
  const act = ACTS[errand.words.join(" ")];
  if (act === undefined || context.orchestrator === "none") return go();
  const orchestrator = await orchestratorOf(context);
  const about = [...errand.args, ...errand.flags.flatMap(([flag, value]) => (ABOUT.has(flag) && value !== undefined ? [value] : []))];
  const tell = (state: "asked" | "done" | "failed") =>
    orchestrator.call("recordAct", { body: { act, pool: errand.host ?? "localhost", about: about.slice(0, 8), state } });
  try {
    await tell("asked");
  } catch (error) {
    // Where there is no orchestrator there is no record, and nothing that it could be missing from.
    if (!(error instanceof RbeesError) || error.code !== "UNREACHABLE") throw error;
    if (orchestrator.url !== DEFAULT_URL)
      context.say(context.io.err_look.dim(`Not recorded: no orchestrator answers at ${orchestrator.url}.`));
    return go();
  }
  let exit: number = EXIT.failed;
  try {
    exit = await go();
    return exit;
  } finally {
    // It has happened: that it was asked for is in the record already.
    await tell(exit === EXIT.done ? "done" : "failed").catch((error: Error) =>
      context.io.say(`Its end was not recorded: ${error.message}`),
    );
  }
}
