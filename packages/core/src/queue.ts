/** The waiting jobs: jobs that lost their worker first, then fair between tenants within a priority, first come first served within each. */
import { countWanted, demandsOn } from "./demand.ts";
import { FairLine } from "./fair-line.ts";
import { Line } from "./line.ts";
import { type Account, heldJobs, mayRun } from "./quota.ts";
import { type Job, type JobSpec, PRIORITIES, type Priority, type Queue, queueKey, type State } from "./state.ts";

function emptyQueue({ model, pin }: JobSpec): Queue {
  return {
    model,
    pin,
    returned: { interactive: new Line(), batch: new Line() },
    fresh: { interactive: new FairLine<Job>(mayRun), batch: new FairLine<Job>(mayRun) },
    wanted: new Map(),
  };
}

export function enqueue(state: State, job: Job): void {
  const key = queueKey(job.spec);
  let queue = state.queues.get(key);
  if (queue === undefined) {
    queue = emptyQueue(job.spec);
    state.queues.set(key, queue);
    if (queue.pin !== null) state.pinned_queues += 1;
  }
  const line = job.attempt > 0 ? queue.returned : queue.fresh;
  state.shares.joins(job.share);
  line[job.priority].push(job);
  countWanted(queue, job, 1);
  count(state, job, 1);
}

/** It waits for a rate of the account, before it joins a queue. */
export function hold(state: State, job: Job, by: Account): void {
  by.held[job.priority].push(job);
  state.quotas.holding.add(by);
  job.held_by = by;
  count(state, job, 1);
}

function release(state: State, job: Job, by: Account): void {
  by.held[job.priority].remove(job);
  if (heldJobs(by) === 0) state.quotas.holding.delete(by);
  job.held_by = null;
  count(state, job, -1);
}

function count(state: State, { accounts, spec }: Job, by: 1 | -1): void {
  state.queued += by;
  state.queued_bytes += by * spec.bytes;
  for (const account of accounts) account.queued += by;
}

/** True when the job waited. */
export function dequeue(state: State, job: Job): boolean {
  if (job.held_by !== null) {
    release(state, job, job.held_by);
    return true;
  }
  const key = queueKey(job.spec);
  const queue = state.queues.get(key);
  if (queue === undefined) return false;
  const { priority } = job;
  if (!queue.returned[priority].remove(job) && !queue.fresh[priority].remove(job)) return false;
  countWanted(queue, job, -1);
  count(state, job, -1);
  state.shares.leaves(job.share);
  if (depth(queue) > 0) return true;
  state.queues.delete(key);
  if (queue.pin !== null) state.pinned_queues -= 1;
  return true;
}

/** The waiting jobs of a queue in the order in which they should run. */
export function* inOrder(queue: Queue): Generator<Job> {
  for (const priority of PRIORITIES) yield* waiting(queue, priority);
}

export function* waiting(queue: Queue, priority: Priority): Generator<Job> {
  yield* queue.returned[priority];
  yield* queue.fresh[priority].all();
}

export function depth(queue: Queue): number {
  return PRIORITIES.reduce((sum, priority) => sum + queue.returned[priority].size + queue.fresh[priority].size, 0);
}

/** Its tenant or its rules demand something else of its worker from now on. */
export function demandAnew(state: State, job: Job, by_rules = job.by_rules): void {
  const { demands, demands_key } = demandsOn(state, job.spec, by_rules);
  const waits = job.worker_id === null && job.held_by === null;
  const queue = waits ? state.queues.get(queueKey(job.spec)) : undefined;
  if (queue !== undefined) countWanted(queue, job, -1);
  job.by_rules = by_rules;
  job.demands = demands;
  job.demands_key = demands_key;
  if (queue !== undefined) countWanted(queue, job, 1);
}

/** Jobs of the same queue that run before this one; walks the queue, so for views, not for decisions. */
export function position(state: State, job: Job): number {
  const queue = state.queues.get(queueKey(job.spec));
  if (queue === undefined) return 0;
  let ahead = 0;
  for (const other of inOrder(queue)) {
    if (other === job) return ahead;
    ahead += 1;
  }
  return ahead;
}

/** What a job that joins its queue would find before it; constant time. */
export function lengthAhead(state: State, job: Job): number {
  const queue = state.queues.get(queueKey(job.spec));
  if (queue === undefined) return 0;
  const { returned, fresh } = queue;
  const { tenant } = job.spec;
  if (job.priority === "interactive") return returned.interactive.size + fresh.interactive.ahead(tenant);
  return returned.interactive.size + fresh.interactive.size + returned.batch.size + fresh.batch.ahead(tenant);
}
