/** The orchestrator put together: the only wiring, called by `main` and by tests. */
import { type Access, orcdAccess, orcdRoutes } from "@rbees/contracts/routes";
import { createState } from "@rbees/core/state";
import { serve } from "@rbees/kit/http";
import type { Log } from "@rbees/kit/log";
import { authority, reachable } from "@rbees/kit/network";
import { authorities, type Tls, type TlsFiles } from "@rbees/kit/tls";
import { type JobRequest, sentTokens } from "./active-job.ts";
import { actHandlers } from "./api/acts.ts";
import { jobSpec } from "./api/admit.ts";
import { anthropicHandlers } from "./api/anthropic.ts";
import { batchHandlers } from "./api/batches.ts";
import { elsewhere } from "./api/elsewhere.ts";
import { embeddingHandlers } from "./api/embeddings.ts";
import { gdprHandlers } from "./api/gdpr.ts";
import { jobHandlers } from "./api/jobs.ts";
import { keyHandlers } from "./api/keys.ts";
import { ollamaHandlers } from "./api/ollama.ts";
import { openaiHandlers } from "./api/openai.ts";
import { policyHandlers } from "./api/policy.ts";
import { responsesHandlers } from "./api/responses.ts";
import { systemHandlers } from "./api/system.ts";
import { tenantHandlers } from "./api/tenants.ts";
import { tokenizeHandlers } from "./api/tokenize.ts";
import { workerHandlers } from "./api/workers.ts";
import { AuditAnchor } from "./audit-anchor.ts";
import { auditKeyIn } from "./audit-key.ts";
import { asksForKeys, noKeys } from "./auth.ts";
import { Batches } from "./batches.ts";
import { cacheSalt } from "./cache-salt.ts";
import { stranger } from "./caller.ts";
import { coreNow } from "./clock.ts";
import type { OrcdConfig } from "./config.ts";
import { contentKeyIn } from "./content-key.ts";
import { Deeds } from "./deeds.ts";
import { Files } from "./files.ts";
import { JobRegistry } from "./job-registry.ts";
import { KeyUses } from "./key-uses.ts";
import { Keyring, keyIn } from "./keyring.ts";
import { Loop } from "./loop.ts";
import { OrcdMetrics } from "./metrics.ts";
import { Oidc } from "./oidc.ts";
import { Policies } from "./policies.ts";
import { checkRegions, Pools } from "./pools.ts";
import { keptEvents, ProgressFlush, restore } from "./progress.ts";
import { tellNews, tellPosition } from "./queue-news.ts";
import { auditChange } from "./record.ts";
import { RegistrationRefusals } from "./registration-refusals.ts";
import { databaseIn, openStore } from "./store/open.ts";
import type { Recovered, Store } from "./store/port.ts";
import { Tenants } from "./tenants.ts";
import { WorkerCredentials } from "./worker-credentials.ts";
import { WorkerDirectory } from "./worker-directory.ts";

export interface Orcd {
  readonly url: string;
  readonly port: number;
  /** Refuses new work, lets running jobs finish for `drain_ms`, then goes; what is left is recovered at the next start. */
  stop(): Promise<void>;
  /** Loads the file of rules again; when it is not valid, those in force stay. */
  reloadPolicy(): Promise<void>;
}

export interface OrcdPorts {
  readonly log: Log;
  /** The folder of the database. */
  readonly data_dir: string;
  /** The file of the key that signs the audit trail; made when there is none. */
  readonly audit_key: string;
  /** The file of the key under which prompts and answers are kept; made when there is none. */
  readonly content_key: string;
  /** What it shows its callers; undefined: it speaks in clear. */
  readonly tls?: (Tls & Partial<TlsFiles>) | undefined;
  /** The authority, PEM, whose certificates workers show. */
  readonly ca?: string | undefined;
  /** Nothing can go on after this; the process should end and be started again. */
  readonly fatal: (error: unknown) => void;
}

export async function createOrcd(config: OrcdConfig, ports: OrcdPorts): Promise<Orcd> {
  const { log, data_dir, audit_key, content_key, tls, ca, fatal } = ports;
  const asks_keys = asksForKeys(config);
  checkRegions(config);
  const oidc = Oidc.of(config, { asks: asks_keys, log });
  const anchor = config.audit_anchor === "" ? undefined : await AuditAnchor.open(config.audit_anchor);
  const store = await openStore(databaseIn(data_dir), { audit: auditKeyIn(audit_key), content: contentKeyIn(content_key) });
  const keys = await Keyring.open(store, oidc && { oidc, isTenant: (name) => tenants.has(name) });
  if (asks_keys && keys.live === 0 && oidc === undefined) {
    await store.close();
    throw noKeys(config);
  }
  const uses = new KeyUses(store, config);
  const refusals = new RegistrationRefusals(log);
  const credentials = await WorkerCredentials.open(store, { ...config, fatal });
  const recovered = await store.recover(Date.now());
  const metrics = new OrcdMetrics();
  const jobs = new JobRegistry(config);
  const workers = new WorkerDirectory(config);
  const loop: Loop = new Loop(createState(config, recovered.models), {
    store,
    jobOf: (id) => jobs.get(id),
    carryOut: (decision) => deeds.carryOut(decision),
    fatal,
  });
  // Whoever tells need not wait; a transaction that fails ends the process by itself.
  const tell = (event: Parameters<Loop["send"]>[0]) => void loop.send(event).done.catch(() => {});
  const pools = new Pools(config, {
    log,
    // What listens everywhere has no certificate for "everywhere".
    url: () => served.url.replace(authority(served.host, served.port), authority(reachable(served.host), served.port)),
    reported: (pool) => tell({ type: "pool.reported", pool }),
    lost: (pool_id) => tell({ type: "pool.lost", pool_id }),
    loadEnded: (model, demands_key, error) => tell({ type: "load.ended", model, demands_key, error }),
    evictFailed: (worker_id) => tell({ type: "evict.failed", worker_id }),
    joinToken: async (pool) =>
      asks_keys ? (await credentials.invite({ pool, expires_in_ms: config.spawn_ms_max }, undefined)).token : undefined,
  });
  const deeds = new Deeds({
    pools,
    jobs,
    workers,
    metrics,
    log,
    saltOf: (tenant) => cacheSalt(tenant, config.prefixes_shared),
    attemptPrefilled: (job_id, attempt, worker_id) => tell({ type: "attempt.prefilled", job_id, attempt, worker_id }),
    attemptProgressed: (job_id, attempt, worker_id, tokens_out) =>
      tell({ type: "attempt.progressed", job_id, attempt, worker_id, tokens_out }),
    audit: (kind, fields) => void note(store, kind, fields).catch(fatal),
    attemptEnded: (job_id, attempt, worker_id, outcome) => tell({ type: "attempt.ended", job_id, attempt, worker_id, outcome }),
  });
  const tenants: Tenants = await Tenants.open({
    store,
    keys,
    asks_keys,
    tell,
    limits: {
      requests_per_minute_max: config.tenant_requests_per_minute_max,
      tokens_per_minute_max: config.tenant_tokens_per_minute_max,
      tokens_per_day_max: config.tenant_tokens_per_day_max,
      jobs_queued_max: config.tenant_jobs_queued_max,
      jobs_running_max: config.tenant_jobs_running_max,
      models: [],
      over_limit: config.tenant_over_limit,
    },
    content_keep_ms: config.content_keep_ms,
    tokensToday: (tenant) => loop.state.quotas.usedToday("tenant", tenant, coreNow()),
  });
  metrics.watchQueue(loop.state);
  await note(store, "orchestrator.started", { recovered_jobs: recovered.jobs.length });
  const policies = await Policies.open({
    file: config.policy_file,
    store,
    log,
    keyName: (id) => keys.nameOf(id),
    jobs: () => [...loop.state.jobs.values()].map(({ spec }) => spec),
    tell,
  }).catch(async (error) => {
    await store.close();
    throw error;
  });
  await recoverJobs(recovered, { jobs, loop, deeds, policies });

  let stopping = false;
  const admitting = { loop, jobs, metrics, stopping: () => stopping, policies };
  const asking = { ...openaiHandlers({ ...config, ...admitting, workers }), ...embeddingHandlers(admitting) };
  const files = await Files.open(store, config);
  const batches = new Batches({ store, files, handlers: asking, limits: config, log, fatal });
  await batches.recover();
  const served = await serve(
    orcdRoutes,
    {
      ...jobHandlers({ ...config, ...admitting, store, workers }),
      ...asking,
      ...batchHandlers({ ...config, ...admitting, store, files, batches }),
      ...responsesHandlers({ ...config, ...admitting, workers }),
      ...ollamaHandlers({ ...config, ...admitting, workers }),
      ...anthropicHandlers({ ...config, ...admitting, workers }),
      ...tokenizeHandlers({ ...config, ...admitting, store, workers }),
      ...workerHandlers({ ...config, loop, workers, credentials, ca: authorities(ca) }),
      ...keyHandlers(keys, tenants),
      ...tenantHandlers(tenants),
      ...actHandlers(store),
      ...gdprHandlers({ ...config, ...admitting, store, files, batches }),
      ...policyHandlers(policies),
      ...systemHandlers(loop, metrics, asks_keys),
    },
    {
      ...config,
      // The form has its boundaries and other fields too.
      form_bytes_max: config.batch_file_bytes_max + FORM_BYTES,
      log,
      tls,
      elsewhere,
      authorize: asks_keys
        ? (route, headers, peer) => {
            const worker = credentials.authorize(accessOf(route), route === "registerWorker", keyIn(headers));
            return worker === undefined ? uses.noted(keys.authorize(accessOf(route), headers), peer) : stranger(worker);
          }
        : undefined,
      refused: (refusal) => {
        if (refusal.route === "registerWorker") refusals.note(refusal);
      },
    },
  );
  const telling = setInterval(() => tellNews(loop.state, jobs, (model) => pools.shareLoaded(model)), config.queue_news_ms);
  const ticks = setInterval(() => {
    jobs.sweep();
    tell({ type: "tick" });
  }, config.tick_ms);
  const sign = async () => {
    await store.commit([{ table: "audit", sign: { at_ms: Date.now() } }]);
    await anchor
      ?.add(store)
      .catch((error) => log.error({ err: error }, "the head was not added to audit_anchor; the next one is tried again"));
  };
  const heads = config.audit_head_ms === 0 ? undefined : setInterval(() => void sign().catch(fatal), config.audit_head_ms);
  const progress = new ProgressFlush({ active: () => jobs.active(), store });
  const flushes =
    config.progress_flush_ms === 0 ? undefined : setInterval(() => void progress.flush().catch(fatal), config.progress_flush_ms);
  let sweeping: Promise<void> | undefined;
  const retention = setInterval(() => {
    sweeping ??= sweep(store, files, tenants, config)
      .catch(fatal)
      .finally(() => {
        sweeping = undefined;
      });
  }, config.content_sweep_ms);
  log.info({ url: served.url, data_dir, recovered_jobs: recovered.jobs.length }, "ready");

  if (config.auto_spawn) pools.start();
  batches.start(config.tick_ms);
  let stopped: Promise<void> | undefined;
  const stop = async () => {
    stopping = true;
    loop.send({ type: "halted" });
    await until(() => deeds.running === 0, config.drain_ms, config.tick_ms);
    clearInterval(ticks);
    clearInterval(telling);
    pools.stop();
    batches.stop();
    clearInterval(flushes);
    clearInterval(heads);
    clearInterval(retention);
    loop.close();
    deeds.abortAll();
    await served.close(200);
    // Nothing is sent any more: what is left over goes on exactly there at the next start.
    while (flushes !== undefined && (await progress.flush()));
    await sweeping;
    await note(store, "orchestrator.stopped", {});
    await sign();
    await anchor?.close();
    workers.close();
    await store.close();
  };
  return {
    url: served.url,
    port: served.port,
    stop() {
      stopped ??= stop();
      return stopped;
    },
    async reloadPolicy() {
      await policies.reload(undefined);
    },
  };
}

/** What a form has beside its file, at most. */
const FORM_BYTES = 65_536;

/** What is in no table answers nobody. */
function accessOf(route: string): Access {
  return (orcdAccess as Readonly<Record<string, Access>>)[route] ?? [];
}

interface Recovering {
  readonly jobs: JobRegistry;
  readonly loop: Loop;
  readonly deeds: Deeds;
  readonly policies: Policies;
}

const RESTARTED = "the orchestrator was restarted";

/** Jobs of an earlier life: those that had begun go on after what is on disk, and whoever had read more is told so. */
async function recoverJobs({ jobs: rows, progress }: Recovered, { jobs, loop, deeds, policies }: Recovering) {
  const progressOf = Map.groupBy(progress, ({ job_id }) => job_id);
  for (const row of rows) {
    // A request from before there was the choice.
    const request: JobRequest = { on_worker_lost: "continue", ...JSON.parse(row.request) };
    const { id, tenant, key_id, correlation_id, submitted_at_ms, first_token_at_ms, attempt, spent } = row;
    const kept = progressOf.get(id) ?? [];
    const job = jobs.add(
      { id, request, tenant, key_id, correlation_id, submitted_at_ms, attempt, first_token_at_ms, rules: [] },
      keptEvents(kept, row.lives),
    );
    job.moved_because = RESTARTED;
    tellPosition(job, 0, undefined);
    restore(job, kept);
    const plain = jobSpec(job, loop.state.limits);
    const spec = { ...plain, demands: policies.demandsOn(plain) };
    const { decisions, done } = loop.send({ type: "job.recovered", spec, attempt, spent, ran: row.status === "running" });
    if (attempt > 0 && decisions.every(({ type }) => type !== "settle")) {
      const from = sentTokens(job)?.length ?? 0;
      if (from > 0) job.stream.append({ type: "restarted", reason: RESTARTED, from });
      else deeds.beginAnew(job, RESTARTED);
    }
    await done;
    // Its connection ended with that life, and its client has no way back to it.
    if (request.openai === true && request.on_disconnect === "cancel") await loop.send({ type: "job.cancelled", job_id: id }).done;
  }
}

/** Takes away what is over its time, content, files and entries; a piece at a time, so that jobs are written in between. */
async function sweep(
  store: Store,
  files: Files,
  tenants: Tenants,
  { audit_keep_ms: keep_ms, audit_segment_ms: segment_ms }: OrcdConfig,
): Promise<void> {
  while (await store.expireContent({ now_ms: Date.now(), ...tenants.contentKept() }));
  await files.sweep(tenants.contentKept());
  while (keep_ms > 0 && (await store.expireAudit({ now_ms: Date.now(), keep_ms, segment_ms })));
}

function note(store: Store, kind: string, fields: Record<string, number | string>): Promise<void> {
  return store.commit([auditChange(kind, fields, { now_ms: Date.now() })]);
}

/** Waits for a condition that events bring about, looking every `every_ms`, for at most `ms_max`. */
async function until(met: () => boolean, ms_max: number, every_ms: number): Promise<void> {
  const deadline = performance.now() + ms_max;
  while (!met() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, every_ms));
}
