/** `rbees jobs replay`: a job once more, as it was, and whether the same comes out. */
import { RbeesError } from "@rbees/contracts/errors";
import type { JobView } from "@rbees/contracts/job";
import type { Context } from "../context.ts";
import { type Look, plural } from "../look.ts";
import { orchestratorOf } from "../orchestrator.ts";
import { followJob } from "./follow.ts";

export interface Replayed {
  readonly job_id: string;
  readonly replay_of: string;
  readonly worker_id: string;
  readonly model_digest: string;
  readonly engine: string;
  readonly deterministic: boolean;
  readonly identical: boolean;
  /** Of the text, in code points. */
  readonly characters: number;
  /** Where the first character is that is another one, from 0; null when there is none. */
  readonly differs_at: number | null;
  /** What stands there in the recorded answer and in the new one. */
  readonly recorded: string | null;
  readonly replayed: string | null;
}

/** Characters that are shown from where the texts part. */
const SHOWN_CHARS = 40;

export async function replay(context: Context, id: string): Promise<Replayed> {
  const orchestrator = await orchestratorOf(context);
  const begun = await orchestrator.call("replayJob", { params: { id } });
  const last = await followJob(orchestrator, begun.job_id, {
    signal: context.signal,
    onEvent: (event) => event.type === "token" && context.progress("running again", `${event.i + event.ids.length} tokens`),
    onBroken: (tries) => context.progress(`connection lost, connecting again (${tries})`),
    onStored: () => {},
  });
  context.progress(undefined);
  if (last.type === "error")
    throw new RbeesError("CONFLICT", `The replay, job ${begun.job_id}, did not end well: ${last.message} (${last.code})`);
  const [before, now] = await Promise.all([
    orchestrator.call("showJob", { params: { id } }),
    orchestrator.call("showJob", { params: { id: begun.job_id } }),
  ]);
  const { job_id, replay_of, worker_id, model_digest, engine, deterministic } = begun;
  return { job_id, replay_of, worker_id, model_digest, engine, deterministic, ...compared(answerOf(before), answerOf(now)) };
}

/** The text, and what it says beside that; a call's id is another one each time. */
function answerOf({ text, reasoning, tool_calls }: JobView): string {
  if (reasoning === undefined && tool_calls === undefined) return text;
  return JSON.stringify([text, reasoning ?? "", (tool_calls ?? []).map(({ id: _, ...call }) => call)]);
}

function compared(recorded: string, replayed: string): Pick<Replayed, "identical" | "characters" | "differs_at" | "recorded" | "replayed"> {
  const [old, fresh] = [[...recorded], [...replayed]];
  if (recorded === replayed) return { identical: true, characters: old.length, differs_at: null, recorded: null, replayed: null };
  let at = 0;
  while (at < old.length && old[at] === fresh[at]) at += 1;
  const shown = (text: string[]) => text.slice(at, at + SHOWN_CHARS).join("");
  return { identical: false, characters: old.length, differs_at: at, recorded: shown(old), replayed: shown(fresh) };
}

export function renderReplay(result: Replayed, look: Look): string {
  const { replay_of, worker_id, engine, deterministic, identical, characters, differs_at, recorded, replayed, job_id } = result;
  const where = look.dim(`${worker_id}, ${look.safe(engine)}, job ${job_id}`);
  if (identical) return `${replay_of} came out the same: ${plural(characters, "character")}. ${where}\n`;
  const why = deterministic ? "" : `\n${look.dim("The worker does not run with --deterministic: what ran beside it may have changed it.")}`;
  const lines = [`recorded: ${look.safe(JSON.stringify(recorded))}`, `now:      ${look.safe(JSON.stringify(replayed))}`];
  return `${look.bad(`${replay_of} came out otherwise`)} from character ${differs_at} of ${characters} on. ${where}\n${lines.join("\n")}${why}\n`;
}
