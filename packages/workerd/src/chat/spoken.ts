/**
 * An answer whose text is taken apart: gives out tokens once all that they say is certain, in whole tokens. So whoever has the tokens
 * of what was given out can continue exactly there.
 */
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import type { TokenReport } from "../engine.ts";
import { shortId } from "./conversation.ts";
import type { Reading } from "./reading.ts";
import { type Said, Speech } from "./speech.ts";

/** Tokens, where the first of them is in the answer, and how likely they were. */
interface Held {
  i: number;
  ids: number[];
  logprobs: TokenLogprob[];
}

/** Where much is told of each token, what may be a call is not waited for so long: all of it comes in one event. */
const HEAD_LOGPROBS_MAX = 8192;

export class Spoken {
  readonly #speech: Speech;
  /** Tokens that are not given out yet. */
  #held: Held | undefined;

  /** `logprobs`: of how many tokens at each place it is told how likely they were, if it is. */
  constructor(reading: Reading, job_id: string, logprobs?: number) {
    const head_chars_max = logprobs === undefined ? undefined : Math.floor(HEAD_LOGPROBS_MAX / (logprobs + 1));
    this.#speech = new Speech(reading, (index) => shortId(`${job_id} ${index}`), head_chars_max);
  }

  /** Text that the client has, as it was. */
  continued(text: string): void {
    this.#speech.push(text);
    this.#speech.take();
  }

  /** All continued text has been told. What is not certain of it was given out all the same, so the answer had ended there. */
  resumed(): void {
    this.#speech.finish();
    this.#speech.take();
  }

  /** The one call that was wanted is complete: nothing more is. */
  get over(): boolean {
    return this.#speech.over;
  }

  /** More tokens, or none: what can be given out now. `last`: nothing follows. */
  push(more: TokenReport | undefined, last: boolean): TokenReport | undefined {
    if (more !== undefined) {
      const { i, ids, logprobs = [] } = more;
      this.#held ??= { i, ids: [], logprobs: [] };
      this.#held.ids.push(...ids);
      this.#held.logprobs.push(...logprobs);
      this.#speech.push(more.t);
    }
    if (last) this.#speech.finish();
    const held = this.#held;
    if (held === undefined || !this.#speech.settled) return undefined;
    this.#held = undefined;
    return reported(this.#speech.take(), held);
  }
}

/** Whoever reads tells a plain token from others by what stands first: `t`. */
function reported({ reasoning, text, calls }: Said, { i, ids, logprobs }: Held): TokenReport {
  return {
    ...(reasoning === "" ? {} : { reasoning }),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
    ...(logprobs.length === 0 ? {} : { logprobs }),
    t: text,
    i,
    ids,
  };
}
