/**
 * The batches that have not ended: their lines are asked a few at a time, in turn over all batches, and each answer is written before the
 * next step is taken. The rows are the truth: after a crash, what has no answer is asked again, and an answer that a line has stays.
 */
import { randomUUID } from "node:crypto";
import type { BatchStatus } from "@rbees/contracts/batch";
import type { Log } from "@rbees/kit/log";
import {
  type AskedHandlers,
  answerLine,
  type BatchEndpoint,
  comesLater,
  type LineAnswer,
  outputLine,
  unansweredLine,
} from "./batch-answer.ts";
import { type InputLine, readBatchInput } from "./batch-input.ts";
import { NO_ROLES } from "./caller.ts";
import type { Files } from "./files.ts";
import { auditChange } from "./record.ts";
import type { BatchLineTable, BatchTable } from "./store/batch-schema.ts";
import type { SubjectName } from "./store/content.ts";
import type { Change, Store } from "./store/port.ts";
import { subjectOfBody } from "./subject.ts";

export interface BatchLimits {
  readonly batch_lines_max: number;
  readonly batch_lines_running_max: number;
}

export interface BatchPorts {
  readonly store: Store;
  readonly files: Files;
  readonly handlers: AskedHandlers;
  readonly limits: BatchLimits;
  readonly log: Log;
  /** The store refused: nothing of this can be undone, so the process has to end. */
  readonly fatal: (error: unknown) => void;
}

interface Live {
  row: BatchTable;
  /** Lines that wait, the next first. */
  waiting: BatchLineTable[];
  /** The last line that was fetched. */
  fetched: number;
  /** Nothing is left to fetch. */
  exhausted: boolean;
  /** By line: ends its job. */
  readonly running: Map<number, () => void>;
  /** Told to come back later: not before then. */
  not_before_ms: number;
  /** Something is being written of it. */
  busy: boolean;
  /** Subjects that were erased since it was taken up: none of their lines that are in memory is asked, or has an answer. */
  readonly erased: Set<string>;
}

/** Instead of an answer, of a line whose subject is erased. */
const NO_ANSWER = { output: "", ok: 0 } as const;

const LINES_FETCHED = 64;
const LINES_A_COMMIT = 200;
const LATER_MS = { unless_said: 1000, most: 60_000 } as const;
const DIGITS = 8;

export class Batches {
  readonly #ports: BatchPorts;
  readonly #live = new Map<string, Live>();
  #running = 0;
  #coming = 0;
  #stopped = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(ports: BatchPorts) {
    this.#ports = ports;
  }

  /** Takes up what an earlier life left: it can be shown and cancelled, and nothing of it is asked before `start`. */
  async recover(): Promise<void> {
    const { store } = this.#ports;
    for (const row of await store.liveBatches()) {
      const { completed, failed } = await store.countLines(row.id);
      this.#live.set(row.id, begun({ ...row, completed, failed }));
    }
  }

  /** Asks on, and looks at the clock every `tick_ms` from now on. */
  start(tick_ms: number): void {
    for (const live of [...this.#live.values()]) this.#begin(live);
    this.#timer = setInterval(() => this.#tick(), tick_ms);
  }

  /** Nothing more is asked or written; what runs is asked again in the next life. */
  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
  }

  /** With those whose rows are on their way. */
  get size(): number {
    return this.#live.size + this.#coming;
  }

  /** The present row of one that has not ended. */
  row(id: string): BatchTable | undefined {
    return this.#live.get(id)?.row;
  }

  /** Resolves once it is durable; `said`: the entry about it. */
  async add(row: BatchTable, said: Change): Promise<void> {
    this.#coming += 1;
    try {
      await this.#ports.store.commit([{ table: "batches", insert: row }, said]);
    } finally {
      this.#coming -= 1;
    }
    const live = begun(row);
    this.#live.set(row.id, live);
    this.#begin(live);
  }

  #begin(live: Live): void {
    this.#guard(live.row.status === "validating" ? this.#validate(live) : this.#next(live));
  }

  /** What has no answer gets none. */
  async cancel(id: string, who: string | undefined): Promise<void> {
    const live = this.#live.get(id);
    if (live === undefined || live.row.status === "cancelling" || live.row.status === "finalizing") return;
    const now_ms = Date.now();
    const audit = auditChange("batch.cancelling", { batch_id: id, tenant: live.row.tenant }, { now_ms, who });
    await this.#update(live, { status: "cancelling", cancelling_at_ms: now_ms }, [audit]);
    for (const cancel of live.running.values()) cancel();
    this.#guard(this.#next(live));
  }

  /** The subject is about to be erased: from now on none of its lines is asked, nor written as it was. */
  forget({ tenant, name }: SubjectName): void {
    if (name === null) return;
    for (const live of this.#live.values()) if (live.row.tenant === tenant) live.erased.add(name);
  }

  /** It is erased in the store. */
  async forgotten({ tenant }: SubjectName): Promise<void> {
    for (const live of [...this.#live.values()].filter(({ row, erased }) => row.tenant === tenant && erased.size > 0)) {
      live.waiting = live.waiting.filter(({ request }) => !isErased(live, request));
      await this.#recount(live);
      this.#guard(this.#next(live));
    }
  }

  /** From the store, where lines are erased too. */
  async #recount(live: Live): Promise<void> {
    const { completed, failed } = await this.#ports.store.countLines(live.row.id);
    live.row = { ...live.row, completed, failed };
  }

  #guard(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      if (!this.#stopped) this.#ports.fatal(error);
    });
  }

  #tick(): void {
    const now_ms = Date.now();
    for (const live of this.#live.values()) {
      if (live.row.status === "in_progress" && now_ms >= live.row.expires_at_ms) {
        for (const cancel of live.running.values()) cancel();
      }
      this.#guard(this.#next(live));
    }
  }

  /** Reads its input into lines; the same lines again if that was broken off. */
  async #validate(live: Live): Promise<void> {
    const { store, files, limits } = this.#ports;
    const { input_file_id, endpoint } = live.row;
    live.busy = true;
    const { lines, problems } = await readBatchInput(await files.content(input_file_id), endpoint, limits.batch_lines_max);
    const now_ms = Date.now();
    if (this.#stopped || live.row.status !== "validating") {
      live.busy = false;
      return await this.#next(live);
    }
    if (problems.length > 0) {
      await this.#end(live, { status: "failed", problems: JSON.stringify(problems), ended_at_ms: now_ms }, []);
      return;
    }
    for (let from = 0; from < lines.length && !this.#stopped; from += LINES_A_COMMIT) {
      await store.commit(lines.slice(from, from + LINES_A_COMMIT).flatMap((line) => lineChanges(live, line)));
    }
    await this.#recount(live);
    live.busy = false;
    // It may have been cancelled meanwhile.
    const status = live.row.status === "validating" ? { status: "in_progress" as const, in_progress_at_ms: now_ms } : {};
    if (!this.#stopped) await this.#update(live, { ...status, total: lines.length }, []);
    await this.#next(live);
  }

  /** Whatever can be done for the batch now. */
  async #next(live: Live): Promise<void> {
    if (this.#stopped || live.busy || !this.#live.has(live.row.id)) return;
    const { status, expires_at_ms } = live.row;
    const over = status !== "in_progress" || Date.now() >= expires_at_ms;
    if (over) {
      if (status !== "validating" && live.running.size === 0) await this.#finish(live);
      return;
    }
    if (live.waiting.length === 0 && !live.exhausted) await this.#fetch(live);
    if (live.waiting.length === 0 && live.exhausted && live.running.size === 0) return await this.#finish(live);
    this.#ask();
  }

  async #fetch(live: Live): Promise<void> {
    live.busy = true;
    const query = { batch_id: live.row.id, which: "waiting", after: live.fetched, limit: LINES_FETCHED } as const;
    const lines = await this.#ports.store.batchLines(query);
    live.busy = false;
    live.waiting.push(...lines);
    live.fetched = lines.at(-1)?.line ?? live.fetched;
    live.exhausted = lines.length < LINES_FETCHED;
  }

  /** Asks lines, one of each batch in turn, while there are lanes free. */
  #ask(): void {
    const { batch_lines_running_max } = this.#ports.limits;
    for (let asked = true; asked; ) {
      asked = false;
      for (const live of this.#live.values()) {
        if (this.#running >= batch_lines_running_max) return;
        if (live.row.status !== "in_progress" || live.not_before_ms > Date.now() || Date.now() >= live.row.expires_at_ms) continue;
        const line = live.waiting.shift();
        if (line === undefined) continue;
        asked = true;
        // The next round begins with the others.
        this.#live.delete(live.row.id);
        this.#live.set(live.row.id, live);
        this.#guard(this.#run(live, line));
      }
    }
  }

  async #run(live: Live, waiting: BatchLineTable): Promise<void> {
    const { handlers } = this.#ports;
    const { row } = live;
    const { line, request } = waiting;
    this.#running += 1;
    live.running.set(line, () => {});
    const answer = isErased(live, request)
      ? undefined
      : await answerLine(handlers, {
          endpoint: row.endpoint as BatchEndpoint,
          body: JSON.parse(request),
          // Whoever made it may be gone by now: it is its tenant's.
          caller: { who: row.key_id ?? undefined, key_id: row.key_id, tenant: row.tenant, roles: NO_ROLES, everywhere: false },
          request_id: randomUUID(),
          onStarted: (cancel) => {
            live.running.set(line, cancel);
            // Its batch ended while it was let in, or its subject was erased.
            if (live.row.status !== "in_progress" || isErased(live, request)) cancel();
          },
        });
    if (this.#stopped) return;
    await this.#settle(live, waiting, answer);
    live.running.delete(line);
    this.#running -= 1;
    await this.#next(live);
    this.#ask();
  }

  /** Writes the answer of a line, unless it is asked again later. */
  async #settle(live: Live, waiting: BatchLineTable, answer: LineAnswer | undefined): Promise<void> {
    const { store, log } = this.#ports;
    const { row } = live;
    const { id, line, custom_id, request } = waiting;
    if (answer === undefined || isErased(live, request)) {
      await store.commit([{ table: "batch_lines", id, answer: NO_ANSWER }]);
      return await this.#recount(live);
    }
    const cut_off = answer.refused?.code === "CANCELLED" && (live.row.status !== "in_progress" || Date.now() >= row.expires_at_ms);
    if (comesLater(answer)) {
      live.waiting.unshift(waiting);
      live.not_before_ms = Date.now() + Math.min(answer.refused?.retry_after_ms ?? LATER_MS.unless_said, LATER_MS.most);
    } else if (!cut_off) {
      const ok = answer.refused === undefined ? 1 : 0;
      await store.commit([{ table: "batch_lines", id, answer: { output: outputLine(id, custom_id, answer), ok } }]);
      live.row = { ...live.row, ...(ok === 1 ? { completed: live.row.completed + 1 } : { failed: live.row.failed + 1 }) };
      if (answer.refused?.code === "INTERNAL") log.error({ batch_id: row.id, line, err: answer.refused.cause }, "a line of a batch failed");
    }
  }

  /** Nothing of it runs any more: its files are made, as far as there are answers. */
  async #finish(live: Live): Promise<void> {
    const { store, files } = this.#ports;
    const { row } = live;
    live.busy = true;
    const before = await store.countLines(row.id);
    const answered = before.completed + before.failed === before.total;
    const status = row.status === "cancelling" ? "cancelled" : answered ? "completed" : "expired";
    const now_ms = Date.now();
    if (status === "completed") await this.#update(live, { status: "finalizing", finalizing_at_ms: row.finalizing_at_ms ?? now_ms }, []);
    else if (!answered) await this.#giveUp(row.id, status);
    const counts = await store.countLines(row.id);
    if (this.#stopped) return;
    const output = counts.completed > 0 ? files.made(row, "output", counts.output_bytes, now_ms) : undefined;
    const errors = counts.failed > 0 ? files.made(row, "error", counts.error_bytes, now_ms) : undefined;
    const { total, completed: done, failed } = counts;
    const update: Partial<BatchTable> & { status: BatchStatus } = {
      ...{ status, ended_at_ms: now_ms, total, completed: done, failed },
      ...{ output_file_id: output?.id ?? null, error_file_id: errors?.id ?? null },
    };
    const made = [output, errors].flatMap((file) => (file === undefined ? [] : [file.change]));
    await this.#end(live, update, [...made, { table: "batch_lines", batch_id: row.id, gone: "requests" }]);
    this.#ask();
  }

  /** What has no answer is said to have none. */
  async #giveUp(batch_id: string, status: "expired" | "cancelled"): Promise<void> {
    const { store } = this.#ports;
    for (let after = 0; !this.#stopped; ) {
      const lines = await store.batchLines({ batch_id, which: "waiting", after, limit: LINES_A_COMMIT });
      if (lines.length === 0) return;
      await store.commit(
        lines.map(({ id, custom_id }): Change => {
          return { table: "batch_lines", id, answer: { output: unansweredLine(id, custom_id, status), ok: 0 } };
        }),
      );
      after = lines.at(-1)?.line ?? after;
    }
  }

  async #end(live: Live, update: Partial<BatchTable> & { status: BatchStatus }, changes: Change[]): Promise<void> {
    const { id, tenant } = live.row;
    const { status, total = 0, completed = 0, failed = 0 } = update;
    const audit = auditChange("batch.ended", { batch_id: id, tenant, status, total, completed, failed }, { now_ms: Date.now() });
    await this.#update(live, update, [...changes, audit]);
    this.#live.delete(id);
    this.#ports.log.info({ batch_id: id, status, total, completed, failed }, "batch ended");
  }

  async #update(live: Live, update: Partial<BatchTable> & { status?: BatchStatus }, changes: readonly Change[]): Promise<void> {
    live.row = { ...live.row, ...update };
    await this.#ports.store.commit([...changes, { table: "batches", id: live.row.id, update }]);
  }
}

/** Its subject is erased, so that it is not there any more or may not be. */
function isErased({ erased }: Live, request: string): boolean {
  return request === "" || (erased.size > 0 && erased.has(subjectOfBody(JSON.parse(request)) ?? ""));
}

/** A line of the input as it is kept; one whose subject is erased has no answer already. */
function lineChanges({ row: { id: batch_id, tenant }, erased }: Live, { line, custom_id, body }: InputLine): Change[] {
  const id = lineId(batch_id, line);
  const name = subjectOfBody(body);
  if (body === undefined || (name !== null && erased.has(name))) {
    const insert = { id, batch_id, line, custom_id: "", request: "" };
    return [
      { table: "batch_lines", insert, subject: { tenant, name: null } },
      { table: "batch_lines", id, answer: NO_ANSWER },
    ];
  }
  const insert = { id, batch_id, line, custom_id, request: JSON.stringify(body) };
  return [{ table: "batch_lines", insert, subject: { tenant, name } }];
}

/** In the order of the lines. */
export function lineId(batch_id: string, line: number): string {
  return `${batch_id}_${String(line).padStart(DIGITS, "0")}`;
}

function begun(row: BatchTable): Live {
  return { row, waiting: [], fetched: 0, exhausted: false, running: new Map(), not_before_ms: 0, busy: false, erased: new Set() };
}
