/** Jobs that wait in one line, first come first served; any of them may leave it. Constant time for each act. */
import type { Job } from "./state.ts";

/** So many gone from the front are worth closing up. */
const CLOSE_UP = 1024;

export class Line {
  /** Those that have left are undefined. */
  #jobs: (Job | undefined)[] = [];
  /** The number of the first element; numbers count up for as long as the line lives, and a job remembers its own. */
  #base = 0;
  #head = 0;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  push(job: Job): void {
    job.number_in_line = this.#base + this.#jobs.length;
    this.#jobs.push(job);
    this.#size += 1;
  }

  /** True when it stood here. */
  remove(job: Job): boolean {
    const at = job.number_in_line - this.#base;
    if (this.#jobs[at] !== job) return false;
    this.#jobs[at] = undefined;
    this.#size -= 1;
    while (this.#head < this.#jobs.length && this.#jobs[this.#head] === undefined) this.#head += 1;
    if (this.#head === this.#jobs.length || (this.#head >= CLOSE_UP && this.#head * 2 > this.#jobs.length)) {
      this.#base += this.#head;
      this.#jobs = this.#jobs.slice(this.#head);
      this.#head = 0;
    }
    return true;
  }

  /** In order; jobs may leave meanwhile. */
  *[Symbol.iterator](): Generator<Job> {
    for (let number = this.#base + this.#head; number < this.#base + this.#jobs.length; number += 1) {
      const job = this.#jobs[number - this.#base];
      if (job !== undefined) yield job;
    }
  }
}
