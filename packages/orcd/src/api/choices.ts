/**
 * Several answers to one request, `n` to each of its prompts: each is a job of its own; they are let in together or not at all, and a
 * client that leaves ends them all.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { EndEvent } from "@rbees/contracts/events";
import { EVENTS, type EventSink, type EventStream } from "@rbees/kit/event-stream";
import type { AskedJob, Said } from "../active-job.ts";
import type { AnswerStream } from "../answer-stream.ts";
import { SharedStream } from "../shared-stream.ts";
import { type Admitted, admitTogether, prepare } from "./admit.ts";
import { type Asking, answerOf, type Begun, beginning, type DoorPorts, follow, ofPrompt } from "./door.ts";

/** At least one, in the order of their indices: all of the first prompt, then all of the next. */
export type Choices = readonly [Begun, ...Begun[]];

export interface AskedChoices {
  /** A job for each prompt. */
  readonly prompts: readonly AskedJob[];
  readonly n: number;
}

const SEEDS = 2 ** 32;

/** All of them begun or waiting; throws the first refusal, and then none is left. */
export async function admitChoices(ports: DoorPorts, { prompts, n }: AskedChoices, asker: Asking): Promise<Choices> {
  checkCount(prompts.length, n, ports.v1_choices_max);
  const answers = prompts.flatMap((asked, at) => {
    const prompt = prompts.length === 1 ? undefined : `prompt[${at}]`;
    return Array.from({ length: n }, (_, index) => ({ prompt, asked: { ...asked, seed: seedOf(asked.seed, index) } }));
  });
  const prepared = answers.map(({ prompt, asked }) => {
    try {
      return prepare(ports, asked, asker, answers.length);
    } catch (error) {
      throw named(error, prompt);
    }
  });
  const admitted = admitTogether(ports, prepared, asker);
  const outcomes = await Promise.allSettled(answers.map(({ prompt }, at) => begun(admitted[at] as Promise<Admitted>, prompt)));
  const choices = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
  const refused = outcomes.find(({ status }) => status === "rejected");
  if (refused === undefined) return choices as unknown as Choices;
  await cancelAll(ports, choices);
  throw (refused as PromiseRejectedResult).reason;
}

function checkCount(prompts: number, n: number, max: number): void {
  if (prompts * n <= max) return;
  const most = `${max} here at most (v1_choices_max). Send several requests.`;
  if (prompts === 1) throw new RbeesError("INVALID_REQUEST", `n: may be ${most}`, { param: "n" });
  const asked = n === 1 ? `there are ${prompts}` : `there are ${prompts}, and n of ${n} makes that ${prompts * n} answers`;
  throw new RbeesError("INVALID_REQUEST", `prompt: ${asked}; a request may ask for ${most}`, { param: "prompt" });
}

/** `prompt`: what its prompt is called, where there are several. */
async function begun(admitted: Promise<Admitted>, prompt: string | undefined): Promise<Begun> {
  try {
    const { job, headers } = await admitted;
    return { job, headers, prompt };
  } catch (error) {
    throw named(error, prompt);
  }
}

function named(error: unknown, prompt: string | undefined): unknown {
  return error instanceof RbeesError ? ofPrompt(error, prompt) : error;
}

/** With a seed, the answers to a prompt differ from one another and come out the same the next time, whatever other prompts are asked beside it. */
function seedOf(seed: number | undefined, index: number): number | undefined {
  return seed === undefined ? undefined : (seed + index) % SEEDS;
}

async function cancelAll({ loop }: DoorPorts, begun: readonly Begun[]): Promise<void> {
  await Promise.all(begun.map(({ job }) => loop.send({ type: "job.cancelled", job_id: job.id }).done));
}

/** What stands in the answer's head: the ids of all jobs, and how each was placed. */
export function headersOf(choices: Choices): Begun["headers"] {
  const all = (name: "x-rbees-job-id" | "x-rbees-routing") => choices.map(({ headers }) => headers[name]).join(", ");
  // The last was let in last: it knows what is left of a rate.
  const { headers } = choices.at(-1) as Begun;
  return {
    ...headers,
    location: choices[0].headers.location,
    "x-rbees-job-id": all("x-rbees-job-id"),
    "x-rbees-routing": all("x-rbees-routing"),
  };
}

/** All answers once they are complete. When one fails, the others end too. */
export async function wholeChoices(ports: DoorPorts, choices: Choices, { onLeave }: Asking): Promise<(Said & { last: EndEvent })[]> {
  if (choices[0].job.request.on_disconnect === "cancel") onLeave(() => void cancelAll(ports, choices));
  return await orNone(ports, choices, Promise.all(choices.map(answerOf)));
}

/** The answers as they are made, one beside the other. `into` is given what to write to, and what ends all of it when one fails. */
export async function streamedChoices(
  ports: DoorPorts,
  choices: Choices,
  into: (index: number, to: EventSink, end: () => void) => AnswerStream,
) {
  await orNone(ports, choices, beginning(ports, choices));
  const events = (reader: EventStream) => {
    const shared = choices.length === 1 ? undefined : new SharedStream(reader, choices.length);
    for (const [index, { job }] of choices.entries()) {
      follow(
        ports,
        job,
        reader,
        into(index, shared?.sinks[index] ?? reader, () => {
          if (shared === undefined) return;
          shared.end();
          void cancelAll(ports, choices);
        }),
      );
    }
  };
  return { events, headers: headersOf(choices), form: EVENTS };
}

async function orNone<T>(ports: DoorPorts, choices: Choices, of_all: Promise<T>): Promise<T> {
  try {
    return await of_all;
  } catch (error) {
    if (choices.length > 1) await cancelAll(ports, choices);
    throw error;
  }
}
