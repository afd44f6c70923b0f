/** Which jobs run, as their tenants' and keys' limits see it: whoever is at its limit is out of the line until one of its jobs stops. */
import { type Account, atRunningMax } from "./quota.ts";
import { type Job, PRIORITIES, type State } from "./state.ts";

/** An attempt of the job begins there. */
export function begins(state: State, job: Job, worker_id: string): void {
  job.worker_id = worker_id;
  for (const account of job.accounts) {
    account.running += 1;
    if (account.level === "tenant" && atRunningMax(account)) state.shares.pauses(account.id);
  }
}

/** Its present attempt is over, or is being ended. */
export function stops(state: State, job: Job): void {
  if (job.worker_id === null) return;
  job.worker_id = null;
  for (const account of job.accounts) {
    const was_at_max = atRunningMax(account);
    account.running -= 1;
    if (was_at_max) comesBack(state, account, job.spec.tenant);
  }
}

/** The limit of the account was changed, or one of its jobs has stopped. */
export function comesBack(state: State, account: Account, tenant: string): void {
  if (atRunningMax(account)) return account.level === "tenant" ? state.shares.pauses(tenant) : undefined;
  if (account.level === "tenant") state.shares.resumes(tenant);
  for (const { fresh } of state.queues.values()) for (const priority of PRIORITIES) fresh[priority].release(tenant);
}
