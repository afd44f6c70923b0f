/** Which bytes of a file are there: runs in order, that neither touch nor overlap. */
export type Range = readonly [from: number, to: number];

export class Ranges {
  #runs: Range[] = [];

  /** How many bytes are there. */
  get bytes(): number {
    return this.#runs.reduce((sum, [from, to]) => sum + to - from, 0);
  }

  add(from: number, to: number): void {
    if (from >= to) return;
    const before = this.#runs.filter((run) => run[1] < from);
    const after = this.#runs.filter((run) => run[0] > to);
    const touched = this.#runs.slice(before.length, this.#runs.length - after.length);
    const start = Math.min(from, touched[0]?.[0] ?? from);
    const end = Math.max(to, touched.at(-1)?.[1] ?? to);
    this.#runs = [...before, [start, end], ...after];
  }

  /** Up to where nothing is missing. */
  get prefix(): number {
    const first = this.#runs[0];
    return first?.[0] === 0 ? first[1] : 0;
  }

  missing(bytes: number): Range[] {
    const edges = [0, ...this.#runs.flat(), bytes];
    const gaps: Range[] = [];
    for (let i = 0; i < edges.length; i += 2) {
      const [from = 0, to = 0] = edges.slice(i, i + 2);
      if (from < to) gaps.push([from, to]);
    }
    return gaps;
  }
}
