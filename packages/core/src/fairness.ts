/**
 * What each tenant has got so far, so that whoever has got least is next: the virtual token counter (VTC, arXiv 2401.00588). A tenant
 * is charged for the prompt tokens that are computed for it when they are begun, and for the tokens of its answers while they come. One that comes back after a pause
 * is lifted to those who waited meanwhile: what it did not use then is not owed to it now.
 */
import { Heap } from "./heap.ts";

/** What a token costs: an output token takes a step of its own, prompt tokens share one. The paper's weights. */
export const PROMPT_TOKEN = 1;
export const OUTPUT_TOKEN = 2;

/** What a tenant has got so far. Whoever counts for it again and again keeps this, which costs less than its name each time. */
export type Share = Pick<Readonly<Account>, "tenant" | "service">;

interface Account {
  readonly tenant: string;
  weight: number;
  /** Charges so far, divided by the weight; only ever grows. */
  service: number;
  /** Its jobs that wait. */
  waiting: number;
  /** It may run no more of them for now. */
  paused: boolean;
  listed: boolean;
}

export class Shares {
  readonly #accounts = new Map<string, Account>();
  /** Those with waiting jobs, least served first; entries may be out of date, and are mended when they come up. */
  readonly #waiting = new Heap<Account>();
  /** Service of the one that waited last, when nobody waits. */
  #floor = 0;

  /** A tenant of weight 2 gets twice what one of weight 1, which all have at first, does; from now on. */
  weigh(tenant: string, weight: number): void {
    this.#account(tenant).weight = weight;
  }

  serviceOf(tenant: string): number {
    return this.#account(tenant).service;
  }

  of(tenant: string): Share {
    return this.#account(tenant);
  }

  /** One more of its jobs waits. */
  joins(share: Share): void {
    const account = share as Account;
    account.waiting += 1;
    if (account.waiting === 1 && !account.paused) this.#lift(account);
  }

  leaves(share: Share): void {
    const account = share as Account;
    account.waiting -= 1;
    if (account.waiting === 0 && !account.paused) this.#floor = Math.max(this.#floor, account.service);
  }

  /** It is at a limit of its own: what it can't use until `resumes` is not owed to it then, as if it had not waited. */
  pauses(tenant: string): void {
    const account = this.#account(tenant);
    if (account.paused) return;
    account.paused = true;
    if (account.waiting > 0) this.#floor = Math.max(this.#floor, account.service);
  }

  resumes(tenant: string): void {
    const account = this.#account(tenant);
    if (!account.paused) return;
    account.paused = false;
    if (account.waiting > 0) this.#lift(account);
  }

  charge(share: Share, tokens: number): void {
    const account = share as Account;
    account.service += tokens / account.weight;
  }

  #account(tenant: string): Account {
    let account = this.#accounts.get(tenant);
    if (account === undefined) {
      account = { tenant, weight: 1, service: 0, waiting: 0, paused: false, listed: false };
      this.#accounts.set(tenant, account);
    }
    return account;
  }

  #lift(account: Account): void {
    account.service = Math.max(account.service, this.#least());
    if (account.listed) return;
    account.listed = true;
    this.#waiting.push(account, account.service);
  }

  /** Service of the one among those who wait that has got least. */
  #least(): number {
    for (let first = this.#waiting.first; first !== undefined; first = this.#waiting.first) {
      const { value: account, key } = first;
      const active = account.waiting > 0 && !account.paused;
      if (active && key === account.service) return key;
      if (active) this.#waiting.renewFirst(account.service);
      else {
        this.#waiting.take();
        account.listed = false;
      }
    }
    return this.#floor;
  }
}
