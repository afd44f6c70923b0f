/**
 * Those that wait, in a line for each tenant: the tenant that has got least is next, first come first served within it and among
 * equals. Whoever is looked at and passed over counts as served for the rest of that look, so that the order is the one in which they
 * would run.
 */
import type { Share } from "./fairness.ts";
import { Heap } from "./heap.ts";
import { Line, type Waiting } from "./line.ts";
import { LiveMap } from "./live-map.ts";

export interface FairWaiting extends Waiting {
  /** Its line: those of one tenant, or of one of a tenant's keys. */
  readonly flow: string;
  /** Its number among all that came here, of any tenant; kept by the line. */
  arrival: number;
  readonly spec: { readonly prompt_tokens: number };
  /** Of its tenant. */
  readonly share: Share;
}

interface TenantLine<T extends FairWaiting> {
  readonly share: Share;
  readonly flow: string;
  readonly line: Line<T>;
}

/** How far one look has got in a tenant's line. */
interface Look<T extends FairWaiting> {
  readonly of: TenantLine<T>;
  readonly rest: Iterator<T>;
  /** Prompt tokens of those that were passed over. */
  passed_tokens: number;
}

export class FairLine<T extends FairWaiting> {
  readonly #mayRun: (one: T) => boolean;
  readonly #lines = new LiveMap<TenantLine<T>>();
  /** By what each tenant had got when it was put here, which is never more than it has got now. */
  readonly #order = new Heap<TenantLine<T>>();
  /** By tenant, the lines that are out of the order: none of theirs may run until `release`. */
  readonly #out = new Map<string, TenantLine<T>[]>();
  #size = 0;
  #arrivals = 0;

  /** `mayRun`: whether limits of its tenant or key stand against it; the same for all that stand in one line. */
  constructor(mayRun: (one: T) => boolean = () => true) {
    this.#mayRun = mayRun;
  }

  get size(): number {
    return this.#size;
  }

  /** Whose turn it is, without a look at anybody else. */
  get first(): T | undefined {
    return this.#first()?.value.line.first;
  }

  push(one: T): void {
    let of = this.#lines.get(one.flow);
    if (of === undefined) {
      of = { share: one.share, flow: one.flow, line: new Line() };
      this.#lines.set(one.flow, of);
      this.#order.push(of, of.share.service, this.#arrivals);
    }
    one.arrival = this.#arrivals;
    this.#arrivals += 1;
    of.line.push(one);
    this.#size += 1;
  }

  /** True when it stood here. */
  remove(one: T): boolean {
    const gone = this.#lines.get(one.flow)?.line.remove(one) === true;
    if (gone) this.#size -= 1;
    return gone;
  }

  /** About so many go before a newcomer of that tenant: as many of each other tenant as of its own, and one more. Constant time. */
  ahead(tenant: string): number {
    const own = this.#lines.get(tenant)?.line.size ?? 0;
    const others = this.#lines.size - (own > 0 ? 1 : 0);
    return Math.min(this.#size, own + others * (own + 1));
  }

  /** The tenant may run some again. */
  release(tenant: string): void {
    const out = this.#out.get(tenant);
    if (out === undefined) return;
    this.#out.delete(tenant);
    for (const of of out) this.#back(of);
  }

  /** All of them, those that may not run now last. */
  *all(): Generator<T> {
    yield* this;
    for (const out of this.#out.values()) for (const { line } of out) yield* line;
  }

  /** Those that may run, in the order in which they should; they may leave meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    const begun = new Heap<Look<T>>();
    /** In the order in which they came up first, which is kept among equals. */
    const taken: TenantLine<T>[] = [];
    try {
      for (let look = this.#next(begun, taken); look !== undefined; look = this.#next(begun, taken)) {
        const { of } = look;
        const next = look.rest.next();
        // What came before it may have been the last that its tenant may run: the rest waits for the next look.
        if (next.done === true || !this.#mayRun(next.value)) continue;
        const waiting = of.line.size;
        yield next.value;
        if (of.line.size === waiting) look.passed_tokens += next.value.spec.prompt_tokens;
        begun.push(look, of.share.service + look.passed_tokens);
      }
    } finally {
      for (const of of taken) this.#back(of);
    }
  }

  /** Whose turn it is: of those whom the look has begun with and those who are new to it, whoever has got less. */
  #next(begun: Heap<Look<T>>, taken: TenantLine<T>[]): Look<T> | undefined {
    const fresh = this.#first();
    const known = begun.first;
    // Of equal ones the one that has not had its turn: it may be another key of the same tenant.
    if (fresh !== undefined && (known === undefined || fresh.key <= known.key)) {
      this.#order.take();
      taken.push(fresh.value);
      return { of: fresh.value, rest: fresh.value.line[Symbol.iterator](), passed_tokens: 0 };
    }
    return begun.take()?.value;
  }

  /** The first of the order, once what is out of date there is mended. */
  #first(): { readonly value: TenantLine<T>; readonly key: number } | undefined {
    for (let first = this.#order.first; first !== undefined; first = this.#order.first) {
      const { value: of, key, tie } = first;
      const { service } = of.share;
      const next = of.line.first;
      if (next !== undefined && this.#mayRun(next)) {
        if (key === service && tie === next.arrival) return first;
        this.#order.renewFirst(service, next.arrival);
        continue;
      }
      this.#order.take();
      if (next === undefined) this.#lines.delete(of.flow);
      else this.#putOut(of);
    }
    return undefined;
  }

  /** Into the order, if anybody stands there. */
  #back(of: TenantLine<T>): void {
    const next = of.line.first;
    if (next !== undefined) this.#order.push(of, of.share.service, next.arrival);
    else this.#lines.delete(of.flow);
  }

  #putOut(of: TenantLine<T>): void {
    const out = this.#out.get(of.share.tenant);
    if (out === undefined) this.#out.set(of.share.tenant, [of]);
    else out.push(of);
  }
}
