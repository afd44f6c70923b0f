/**
 * A set of what comes and goes all the time, such as open streams: for the reason that `LiveMap` in the core gives, a `Set` would
 * hold much of what has left it. It has no order, and nothing is looked for in it.
 */
export class LiveSet<T> {
  readonly #members: { readonly value: T; at: number }[] = [];

  get size(): number {
    return this.#members.length;
  }

  /** The function that is returned takes it out again; further calls do nothing. */
  add(value: T): () => void {
    const member = { value, at: this.#members.length };
    this.#members.push(member);
    return () => this.#remove(member);
  }

  #remove(member: { readonly value: T; at: number }): void {
    if (member.at < 0) return;
    const last = this.#members.pop() as typeof member;
    if (last !== member) {
      this.#members[member.at] = last;
      last.at = member.at;
    }
    member.at = -1;
  }

  /** Backwards, so that the one in hand may be taken out meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    for (let at = this.#members.length - 1; at >= 0; at -= 1) {
      const member = this.#members[at];
      if (member !== undefined) yield member.value;
    }
  }
}
