/** One response that several answers are written to, each through a sink of its own; it ends with the last of them. */
import type { EventSink, EventStream } from "@rbees/kit/event-stream";

export class SharedStream {
  readonly #to: EventStream;
  #open: number;
  readonly #drained: (() => void)[] = [];
  readonly #closed: (() => void)[] = [];
  #gone = false;
  /** One for each answer. */
  readonly sinks: readonly EventSink[];

  constructor(to: EventStream, answers: number) {
    this.#to = to;
    this.#open = answers;
    this.sinks = Array.from({ length: answers }, () => this.#sink());
    to.onDrain(() => {
      for (const listener of this.#drained) listener();
    });
    // At once, when the reader has left before there was anything to read.
    to.onClose(() => {
      this.#gone = true;
      for (const listener of this.#closed) listener();
    });
  }

  /** None of the answers goes on. */
  end(): void {
    this.#to.end();
  }

  #sink(): EventSink {
    const to = this.#to;
    let ended = false;
    const sink: EventSink = {
      get closed() {
        return ended || to.closed;
      },
      get buffered_bytes() {
        return to.buffered_bytes;
      },
      write: (latin1) => !ended && to.write(latin1),
      writeText: (text) => !ended && to.writeText(text),
      hold: () => to.hold(),
      onDrain: (listener) => void this.#drained.push(listener),
      onClose: (listener) => {
        if (this.#gone) listener();
        else this.#closed.push(listener);
      },
      end: () => {
        if (ended) return;
        ended = true;
        this.#open -= 1;
        if (this.#open === 0) to.end();
      },
      breakOff: () => to.breakOff(),
      cut: () => to.cut(),
    };
    return sink;
  }
}
