/** Showing a job as it happens: its text to stdout, its state on the status line, one line of summary, or every event as JSON. */
import { ERRORS, type ErrorCode, EXIT } from "@rbees/contracts/errors";
import type { EndEvent, FailedEvent, JobEvent, LoadingEvent, QueuedEvent } from "@rbees/contracts/events";
import type { JobView } from "@rbees/contracts/job";
import type { Context } from "../context.ts";
import { duration, percent, plural, rate } from "../look.ts";

export interface Answer {
  event(event: JobEvent): void;
  /** The whole text so far, from the record: what was not printed yet is printed. */
  stored(job: JobView): void;
  broken(tries: number): void;
  /** Prints the outcome and gives the exit code that means it. */
  last(event: EndEvent | FailedEvent): number;
}

/** `what` names the job for people, `since` is when it was submitted. */
export function createAnswer(
  context: Context,
  job: { job_id: string; since_ms?: number },
  now: () => number = performance.now.bind(performance),
): Answer {
  const { io, json } = context;
  /** The answer as it stands, token event by token event. */
  const tokens: { i: number; t: string }[] = [];
  /** What was printed beyond that, and is being said again; and why. */
  let ahead = "";
  let reason = "";
  let printed_any = false;
  let at_line_start = true;
  let worker_id: string | undefined;
  let moves = 0;
  let next_token = 0;
  let first_token_ms: number | undefined;

  const print = (text: string) => {
    if (text === "") return;
    printed_any = true;
    at_line_start = text.endsWith("\n");
    if (!json) io.out(io.out_look.safe(text));
  };
  const endLine = () => {
    if (!json && !at_line_start) io.out("\n");
    at_line_start = true;
  };
  const said = () => textOf(tokens);
  /** It came out otherwise than what is printed: the whole answer once more, on a line of its own. */
  const printAgain = () => {
    ahead = "";
    endLine();
    context.say(io.err_look.dim(`The answer begins again: ${io.err_look.safe(reason)}`));
    print(said());
  };
  /** Adds to the answer, and prints what is not printed yet. */
  const say = (t: string, i: number) => {
    tokens.push({ i, t });
    if (ahead.startsWith(t)) ahead = ahead.slice(t.length);
    else if (t.startsWith(ahead)) {
      const rest = t.slice(ahead.length);
      ahead = "";
      print(rest);
    } else printAgain();
  };
  /** Tokens from `from` on don't count any more. They will mostly come again as they were: nothing is printed twice. */
  const takeBack = (from: number) => {
    const kept = tokens.findLastIndex(({ i }) => i < from) + 1;
    ahead = textOf(tokens.splice(kept)) + ahead;
  };
  // States that pass are for people who watch; in a pipe they would be in the way of what lasts.
  const watching = io.err_look.tty ? context.progress : () => {};
  const line = (event: object) => io.out(`${JSON.stringify(event)}\n`);

  return {
    event(event) {
      if (json) line(event);
      switch (event.type) {
        case "queued":
          return watching("queued", inLine(event));
        case "loading":
          return watching(`loading ${event.model} in ${event.pool}`, loadingTime(event));
        case "started":
          worker_id = event.worker_id;
          return printed_any ? undefined : watching(`running on ${event.worker_id}`);
        case "token":
          if (first_token_ms === undefined && job.since_ms !== undefined) first_token_ms = now() - job.since_ms;
          next_token = event.i + event.ids.length;
          context.progress(undefined);
          return say(event.t, event.i);
        case "migrated":
          worker_id = event.worker_id;
          moves += 1;
          return;
        case "restarted":
          next_token = Math.min(next_token, event.from);
          reason = event.reason;
          return takeBack(event.from);
        default:
          return;
      }
    },
    stored(view) {
      worker_id = view.worker_id ?? worker_id;
      if (!view.text.startsWith(said())) {
        reason = "the record has another answer";
        if (json) line({ type: "restarted", reason, from: 0 });
        takeBack(0);
        next_token = 0;
      }
      const rest = view.text.slice(said().length);
      if (rest === "") return;
      if (json) line({ type: "token", t: rest, i: next_token, ids: [] });
      say(rest, next_token);
    },
    broken(tries) {
      context.progress(`connection lost, connecting again (${tries})`);
    },
    last(event) {
      context.progress(undefined);
      // It ended sooner than what had been printed.
      if (ahead !== "" && event.type === "end") printAgain();
      endLine();
      if (json) line(event);
      if (event.type === "error") {
        const exit = event.code in ERRORS ? ERRORS[event.code as ErrorCode].exit : EXIT.failed;
        io.say(`${io.err_look.bad("failed:")} ${io.err_look.safe(event.message)} (${event.code}, job ${job.job_id})`);
        return exit;
      }
      context.say(io.err_look.dim(summary(event, { job_id: job.job_id, worker_id, moves, first_token_ms })));
      return EXIT.done;
    },
  };
}

function inLine({ position, eta_ms }: QueuedEvent): string {
  const place = position === 0 ? "next in line" : `${plural(position, "job")} ahead`;
  return eta_ms === undefined || eta_ms === 0 ? place : `${place}, starts in about ${duration(eta_ms)}`;
}

function textOf(tokens: readonly { t: string }[]): string {
  return tokens.map(({ t }) => t).join("");
}

function loadingTime({ elapsed_ms, expected_ms, share }: LoadingEvent): string {
  const time = expected_ms === undefined ? duration(elapsed_ms) : `${duration(elapsed_ms)} of about ${duration(expected_ms)}`;
  return share === undefined ? time : `${percent(share, 1)}  ${time}`;
}

interface Facts {
  job_id: string;
  worker_id: string | undefined;
  moves: number;
  first_token_ms: number | undefined;
}

function summary(end: EndEvent, { job_id, worker_id, moves, first_token_ms }: Facts): string {
  const seconds = end.timings.decode_ms / 1000;
  const parts = [
    `${plural(end.tokens_out, "token")}${end.stop_reason === "MAX_TOKENS" ? " (the limit)" : ""}`,
    seconds > 0 && end.tokens_out > 0 ? `${rate(end.tokens_out / seconds)} tokens/s` : undefined,
    first_token_ms === undefined ? undefined : `first token ${duration(first_token_ms)}`,
    worker_id === undefined ? undefined : `worker ${worker_id}${moves > 0 ? ` (moved ${plural(moves, "time")})` : ""}`,
    `job ${job_id}`,
  ];
  return parts.filter((part) => part !== undefined).join(" · ");
}
