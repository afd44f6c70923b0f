/**
 * An answer whose text is taken apart: gives out tokens once all that they say is certain, in whole tokens. So whoever has the tokens
 * of what was given out can continue exactly there.
 */
import type { TokenReport } from "../engine.ts";
import { shortId } from "./conversation.ts";
import type { Reading } from "./reading.ts";
import { type Said, Speech } from "./speech.ts";

export class Spoken {
  readonly #speech: Speech;
  /** Tokens that are not given out yet. */
  #held: { i: number; ids: number[] } | undefined;

  constructor(reading: Reading, job_id: string) {
    this.#speech = new Speech(reading, (index) => shortId(`${job_id} ${index}`));
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
      this.#held = this.#held === undefined ? { i: more.i, ids: more.ids } : { i: this.#held.i, ids: [...this.#held.ids, ...more.ids] };
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
function reported({ reasoning, text, calls }: Said, { i, ids }: { i: number; ids: number[] }): TokenReport {
  return {
    ...(reasoning === "" ? {} : { reasoning }),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
    t: text,
    i,
    ids,
  };
}
