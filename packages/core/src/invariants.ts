/** What must hold after every step. Tests call it; a violation is a bug in `step`. */
import { NO_DEMANDS } from "./demand.ts";
import { isServed } from "./provision.ts";
import { inOrder } from "./queue.ts";
import { type Account, nameOf } from "./quota.ts";
import { attemptKey, isSilent, type State } from "./state.ts";

/** The violated invariants, in words; empty when all hold. `now_ms`: of the last event. */
export function violations(state: State, now_ms: number): string[] {
  const found: string[] = [];
  const waiting = new Set<string>();
  const jobs = [...state.jobs.values()];
  for (const [key, queue] of state.queues) {
    const counted = new Map([...queue.wanted.values()].map((wanted) => [wanted.key, wanted.jobs]));
    for (const job of inOrder(queue)) {
      if (job.demands_key !== "") counted.set(job.demands_key, (counted.get(job.demands_key) ?? 0) - 1);
      if (waiting.has(job.spec.id)) found.push(`job ${job.spec.id} waits twice`);
      waiting.add(job.spec.id);
      if (job.worker_id !== null) found.push(`job ${job.spec.id} waits in ${key} and runs on ${job.worker_id}`);
      if (!state.jobs.has(job.spec.id)) found.push(`job ${job.spec.id} waits but has ended`);
    }
    for (const [demands, wrong] of counted)
      if (wrong !== 0) found.push(`of those who wait for ${queue.model} and demand ${demands}, ${wrong} too many are counted`);
  }
  for (const job of jobs) {
    if (job.held_by === null) continue;
    if (waiting.has(job.spec.id)) found.push(`job ${job.spec.id} is held and waits in a queue`);
    waiting.add(job.spec.id);
    if (job.worker_id !== null) found.push(`job ${job.spec.id} is held and runs`);
    if (job.held_by.held[job.priority].first === undefined || !state.quotas.holding.has(job.held_by))
      found.push(`job ${job.spec.id} is held where nobody looks`);
  }
  const counted = new Map<Account, { queued: number; running: number }>();
  for (const { accounts, worker_id } of jobs) {
    for (const account of accounts) {
      const count = counted.get(account) ?? { queued: 0, running: 0 };
      count[worker_id === null ? "queued" : "running"] += 1;
      counted.set(account, count);
    }
  }
  for (const [account, { queued, running }] of counted) {
    if (account.queued !== queued || account.running !== running)
      found.push(`${queued} jobs of ${nameOf(account)} wait and ${running} run, ${account.queued} and ${account.running} are counted`);
  }
  const pinned = [...state.queues.values()].filter(({ pin }) => pin !== null).length;
  if (pinned !== state.pinned_queues) found.push(`${pinned} queues are of pinned jobs, ${state.pinned_queues} are counted`);
  if (waiting.size !== state.queued) found.push(`${waiting.size} jobs wait, ${state.queued} are counted`);
  for (const job of jobs) {
    if (job.worker_id === null) {
      if (!waiting.has(job.spec.id)) found.push(`job ${job.spec.id} neither waits nor runs`);
      continue;
    }
    const worker = state.workers.get(job.worker_id);
    if (worker === undefined) found.push(`job ${job.spec.id} runs on ${job.worker_id}, which is gone`);
    else if (!worker.running.has(attemptKey(job.spec.id, job.attempt)))
      found.push(`job ${job.spec.id} runs outside the ledger of ${job.worker_id}`);
    if (job.spent >= state.limits.attempts_max) found.push(`job ${job.spec.id} runs although its attempts are spent`);
  }
  for (const worker of state.workers.values()) {
    if (worker.running.size > worker.spec.slots)
      found.push(`worker ${worker.spec.id} runs ${worker.running.size} attempts in ${worker.spec.slots} slots`);
    const prefilling = [...worker.prefilling];
    if (prefilling.some(([key]) => !worker.running.has(key)))
      found.push(`worker ${worker.spec.id} computes prompts of attempts that it does not run`);
    const tokens = prefilling.reduce((sum, [, each]) => sum + each, 0);
    if (tokens !== worker.prefill_tokens)
      found.push(`worker ${worker.spec.id} has ${tokens} prompt tokens to compute, ${worker.prefill_tokens} are counted`);
    if (!state.models.has(worker.spec.model)) found.push(`model ${worker.spec.model} of ${worker.spec.id} is not known`);
    if (![...(state.fleets.get(worker.spec.model) ?? [])].includes(worker)) found.push(`worker ${worker.spec.id} is in no fleet`);
    const free = worker.running.size < worker.spec.slots && !worker.draining && !isSilent(state, worker, now_ms);
    if (free && !worker.offered) found.push(`worker ${worker.spec.id} has a free slot that nobody will find`);
  }
  for (const [key, { model, demands_key, began }] of state.loads) {
    const demands = demands_key === "" ? NO_DEMANDS : state.queues.get(model)?.wanted.get(demands_key)?.demands;
    if (!began && demands !== undefined && isServed(state, model, demands)) found.push(`room is made for ${key}, which is served`);
  }
  for (const job of jobs) {
    const residency = state.residencies.get(job.spec.tenant);
    if (residency !== undefined && !job.demands.includes(residency)) found.push(`job ${job.spec.id} may leave ${residency.areas.join()}`);
  }
  return found;
}
