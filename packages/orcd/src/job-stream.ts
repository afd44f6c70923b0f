/**
 * One job's event stream: gives each event its id, keeps it for replay, and passes it on to whoever reads. A reader who keeps
 * up gets the same string the log got; one who falls behind reads from the log at its own pace, and nothing waits for it.
 */

import { ERRORS } from "@rbees/contracts/errors";
import type { EndEvent, FailedEvent, JobEvent } from "@rbees/contracts/events";
import { encodeEvent } from "@rbees/contracts/sse";
import type { EventSink } from "@rbees/kit/event-stream";
import type { LiveSet } from "@rbees/kit/live-set";
import { seenId } from "./event-id.ts";
import { latin1Of, utf8Of } from "./latin1.ts";
import type { ReplayLog } from "./replay-log.ts";

/** How much of the log a reader who catches up is given at a time. */
const CATCH_UP_BYTES = 16_384;

interface Reader {
  readonly stream: EventSink;
  /** The last event it was given. */
  id: number;
  /** Since when its full socket has taken nothing; undefined while it takes what it gets. */
  blocked_at_ms: number | undefined;
  /** What waited in the socket when that was last looked at. */
  waiting_bytes: number;
}

export interface StreamLimits {
  reader_stall_ms_max: number;
}

/** The streams that somebody reads: nobody has to look at the others. */
export type Reading = LiveSet<JobStream>;

type LastEvent = EndEvent | FailedEvent;

const NO_READERS: ReadonlySet<Reader> = new Set();

export class JobStream {
  readonly log: ReplayLog;
  readonly #limits: StreamLimits;
  readonly #reading: Reading;
  #readers: Set<Reader> | undefined;
  /** Takes it out of `#reading`. */
  #unread = () => {};
  #onNextEvent: (() => void) | undefined;
  /** The event that it ended with. */
  last: LastEvent | undefined;
  #onLast: ((event: LastEvent) => void) | undefined;

  constructor(log: ReplayLog, limits: StreamLimits, reading: Reading) {
    this.log = log;
    this.#limits = limits;
    this.#reading = reading;
  }

  get readers(): number {
    return this.#readers?.size ?? 0;
  }

  get last_id(): number {
    return this.log.last_id;
  }

  /** The oldest event that can still be read; later than `last_id` when none can. */
  get first_id(): number {
    return this.log.first_id;
  }

  append(event: JobEvent): void {
    if (event.type !== "end" && event.type !== "error") return this.appendBlock(latin1Of(encodeEvent(event)));
    // The last event and the end of the response leave as one write.
    this.hold();
    this.appendBlock(latin1Of(encodeEvent(event)));
    this.#close();
    this.last = event;
    this.#onLast?.(event);
  }

  /** Resolves with the last event, for one who waits. */
  lastEvent(): Promise<LastEvent> {
    if (this.last !== undefined) return Promise.resolve(this.last);
    return new Promise((resolve) => {
      this.#onLast = resolve;
    });
  }

  /** What is appended in this turn of the event loop leaves as one write. */
  hold(): void {
    for (const { stream } of this.#readers ?? NO_READERS) stream.hold();
  }

  /** Resolves with the next event, or after `ms`. */
  nextEvent(ms: number): Promise<void> {
    if (ms === 0 || this.log.sealed_at_ms !== undefined) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#onNextEvent = () => {
        this.#onNextEvent = undefined;
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** An event without its id line, as the latin1 string of its bytes: the hot path of the relay. */
  appendBlock(block: string): void {
    const id = this.log.last_id + 1;
    const event = `id: ${id}\n${block}`;
    this.log.append(event);
    this.#onNextEvent?.();
    for (const reader of this.#readers ?? NO_READERS) {
      if (reader.blocked_at_ms !== undefined || reader.id !== id - 1) continue;
      reader.id = id;
      if (!reader.stream.write(event)) reader.blocked_at_ms = performance.now();
    }
  }

  /** All events of these types since the log began, decoded: for the stored text, for continuation, never while tokens flow. */
  events<T extends JobEvent["type"]>(types: readonly T[]): Extract<JobEvent, { type: T }>[] {
    const { latin1 } = this.log.read(this.first_id - 1, Number.POSITIVE_INFINITY);
    const events: Extract<JobEvent, { type: T }>[] = [];
    for (const block of latin1.split("\n\n")) {
      // Each block is `id: …`, `event: …` and `data: …`, in this order.
      const name = block.indexOf("\nevent: ") + 8;
      const end = block.indexOf("\n", name);
      if (!types.includes(block.slice(name, end) as T)) continue;
      events.push(JSON.parse(utf8Of(block.slice(end + "\ndata: ".length))));
    }
    return events;
  }

  /** The data of the events after `id`, each a line of JSON; at most `bytes_max` bytes of events (but at least one), and the last one's id. */
  lines(id: number, bytes_max: number): { json: string; last_id: number } {
    let json = "";
    let last_id = id;
    for (let left = bytes_max; last_id < this.last_id && (left > 0 || last_id === id); ) {
      const read = this.log.read(last_id, Math.min(left, CATCH_UP_BYTES));
      json += utf8Of(read.latin1.replace(/^id: \d+\nevent: \w+\ndata: (.*)\n\n/gm, "$1\n"));
      left -= read.latin1.length;
      last_id = read.last_id;
    }
    return { json, last_id };
  }

  /** What a reader who has seen the event `id`, of this life or an earlier one, has seen of this stream: up to that event. */
  seen(id: number): number {
    return seenId(id, this.log.kept);
  }

  /** Adds a reader who has seen everything up to `after_id`. */
  attach(stream: EventSink, after_id: number): void {
    const reader: Reader = { stream, id: Math.max(after_id, this.first_id - 1), blocked_at_ms: undefined, waiting_bytes: 0 };
    this.#readers ??= new Set();
    if (this.#readers.size === 0) this.#unread = this.#reading.add(this);
    this.#readers.add(reader);
    stream.onClose(() => this.#leave(reader));
    stream.onDrain(() => {
      reader.blocked_at_ms = undefined;
      this.#catchUp(reader);
    });
    this.#catchUp(reader);
  }

  #catchUp(reader: Reader): void {
    while (reader.blocked_at_ms === undefined && reader.id < this.log.last_id && !reader.stream.closed) {
      if (reader.id + 1 < this.first_id) return this.#cutOff(reader);
      const { latin1, last_id } = this.log.read(reader.id, CATCH_UP_BYTES);
      reader.id = last_id;
      if (!reader.stream.write(latin1)) reader.blocked_at_ms = performance.now();
    }
    if (this.log.sealed_at_ms !== undefined && reader.id >= this.log.last_id) reader.stream.end();
  }

  /** Cuts off readers that have taken nothing for too long (they may resume by id), and those that lack events which are forgotten. */
  cutOffReaders(now_ms: number): void {
    for (const reader of this.#readers ?? NO_READERS) {
      // Who has got all of them may wait for others, whose answers go into the same response.
      if (this.log.released && reader.id < this.log.last_id) {
        this.#cutOff(reader);
        continue;
      }
      if (reader.blocked_at_ms === undefined) continue;
      const waiting_bytes = reader.stream.buffered_bytes;
      // Slow is not stalled: whoever takes something gets a new span of time.
      if (waiting_bytes !== reader.waiting_bytes) reader.blocked_at_ms = now_ms;
      reader.waiting_bytes = waiting_bytes;
      if (now_ms - reader.blocked_at_ms > this.#limits.reader_stall_ms_max) this.#cutOff(reader);
    }
  }

  #leave(reader: Reader): void {
    this.#readers?.delete(reader);
    if (this.readers === 0) this.#unread();
  }

  #cutOff(reader: Reader): void {
    this.#leave(reader);
    const { title, retriable } = ERRORS.LAGGED;
    // Without an id: it is no event of the job, and the reader's last id must stay what it was.
    reader.stream.writeText(encodeEvent({ type: "error", code: "LAGGED", message: `${title}.`, retriable } as JobEvent));
    reader.stream.cut();
  }

  #close(): void {
    this.log.seal(performance.now());
    for (const reader of this.#readers ?? NO_READERS) this.#catchUp(reader);
  }
}
