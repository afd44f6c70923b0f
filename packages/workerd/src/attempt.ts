/**
 * One attempt: a run of the engine on one side, an event stream on the other. Owns the order of its events: `started`, tokens
 * and metrics, then exactly one `end` or `error`. The connection is the attempt: when it breaks, the run is aborted.
 */
import { ERRORS, type ErrorCode } from "@rbees/contracts/errors";
import type { WorkerEvent } from "@rbees/contracts/events";
import { encodeEvent } from "@rbees/contracts/sse";
import type { EventStream } from "@rbees/kit/event-stream";
import type { RunEnd, StepReport } from "./engine.ts";
import type { Outcome } from "./metrics.ts";

export interface AttemptOptions {
  run: number;
  job_id: string;
  attempt: number;
  correlation_id: string;
  max_tokens: number;
  metrics_ms: number;
  stream_buffer_bytes_max: number;
  memory_bytes: () => number;
  /** Ends the run; the slot is free when the engine says so. */
  abort: () => void;
}

export class Attempt {
  readonly options: AttemptOptions;
  readonly started_ms = performance.now();
  #stream: EventStream | undefined;
  /** What came before the response was open. */
  #early: string[] = [];
  #closed = false;
  #metrics_at_ms = performance.now();
  #ended_early: { code: ErrorCode; message: string; outcome: Outcome } | undefined;
  tokens_out = 0;
  decode_ms = 0;

  constructor(options: AttemptOptions) {
    this.options = options;
  }

  /** The response is open. */
  attach(stream: EventStream): void {
    this.#stream = stream;
    for (const text of this.#early) stream.writeText(text);
    this.#early = [];
    if (this.#closed) stream.end();
    stream.onClose(() => {
      if (!this.#closed) this.finishEarly("CANCELLED", "The connection broke.", "disconnected");
    });
  }

  send(event: WorkerEvent): void {
    const text = encodeEvent(event);
    if (this.#stream === undefined) {
      this.#early.push(text);
      return;
    }
    this.#stream.writeText(text);
    if (this.#stream.buffered_bytes > this.options.stream_buffer_bytes_max) {
      this.#stream.cut();
      this.finishEarly("LAGGED", "The reader was too slow.", "disconnected");
    }
  }

  /** Takes one report of the engine; the outcome when it was the last. */
  took(report: StepReport): Outcome | undefined {
    this.tokens_out = report.tokens_out;
    this.decode_ms = report.decode_ms;
    if (this.#ended_early === undefined) {
      if (report.token !== undefined) this.send({ type: "token", ...report.token });
      for (const embedding of report.embeddings ?? []) this.send({ type: "embedding", ...embedding });
      if (report.end !== undefined) return this.#end(report.end);
      this.#sendMetrics();
    }
    if (report.error !== undefined) return this.#fail(report.error.code, report.error.message, "failed");
    if (report.aborted !== true && report.end === undefined) return undefined;
    const { code, message, outcome } = this.#ended_early ?? {
      code: "CANCELLED",
      message: "The attempt was cancelled.",
      outcome: "cancelled",
    };
    return this.#fail(code, message, outcome);
  }

  /** Ends the attempt before its answer is complete: the client hears why once the slot is free. */
  finishEarly(code: ErrorCode, message: string, outcome: Outcome): void {
    if (this.#ended_early !== undefined || this.#closed) return;
    this.#ended_early = { code, message, outcome };
    this.options.abort();
  }

  /** The engine is gone: there is no slot to wait for. */
  lost(code: ErrorCode, message: string): Outcome {
    return this.#fail(code, message, "failed");
  }

  #sendMetrics(): void {
    const now = performance.now();
    if (now - this.#metrics_at_ms < this.options.metrics_ms) return;
    this.#metrics_at_ms = now;
    const { job_id, memory_bytes } = this.options;
    const { tokens_out, decode_ms } = this;
    this.send({ type: "metrics", job_id, tokens_out, decode_time_ms: round(decode_ms), memory_bytes: memory_bytes() });
  }

  #end({ timings, ...end }: RunEnd): Outcome {
    this.send({ type: "end", ...end, timings: { prefill_ms: round(timings.prefill_ms), decode_ms: round(timings.decode_ms) } });
    this.#close();
    return "done";
  }

  #fail(code: ErrorCode, message: string, outcome: Outcome): Outcome {
    this.send({ type: "error", code, message, retriable: ERRORS[code].retriable });
    this.#close();
    return outcome;
  }

  #close(): void {
    this.#closed = true;
    this.#stream?.end();
  }
}

/** Microseconds are enough. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
