/** `rbees pool worker spawn … --host`, and `restart`: the worker is told which orchestrator it belongs to, by an address that leads there. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { PoolWorkers } from "@rbees/contracts/pool";
import { isLoopback } from "@rbees/kit/network";
import { CA_FILE, tlsFolder } from "@rbees/kit/tls";
import type { Context } from "../context.ts";
import { addressTowards, hostOf } from "../local/route.ts";
import { orchestratorOf, orchestratorUrl } from "../orchestrator.ts";
import { type Handover, type Invited, invitation, readHandover } from "../pool/handover.ts";
import { CertificateRequest } from "../tls/request.ts";
import type { Errand } from "../verb.ts";
import { call, lastLine } from "./errand.ts";
import { resolved } from "./ssh.ts";
import { type Target, targetOf } from "./target.ts";

const REGISTERED_MS_MAX = 20_000;
/** As the orchestrator labels the workers that it starts in its pools. */
const POOL_LABEL_SIGN = "rbees.pool=";

/** The same errand with the flags that it needs to end with a registered worker. */
export async function withOrchestrator(context: Context, errand: Errand): Promise<Errand> {
  if (context.orchestrator === "none" || errand.host === undefined) return errand;
  const url = await orchestratorUrl(context);
  const target = await targetOf(context, errand.host);
  await checkReach(context, url, target);
  const handover = { ...(await handoverFor(context, errand, url, target)), ...(await trustFor(context, errand, url, target)) };
  const patience: Errand["flags"] = errand.flags.some(([flag]) => flag === "--registered-ms-max")
    ? []
    : [["--registered-ms-max", String(REGISTERED_MS_MAX)]];
  return told(errand, handover, [["--orchestrator", url], ...patience]);
}

/**
 * The same for one that is to come back: with a certificate of now, a token where it may not be known any more, and the orchestrator's
 * new address, if one is named. Without that it stays with the orchestrator that it has, whichever that is.
 */
export async function withWayBack(context: Context, errand: Errand): Promise<Errand> {
  const has = (name: string) => errand.flags.some(([flag]) => flag === name);
  if (context.orchestrator === "none" || errand.host === undefined || has("--handover") || has("--token-file")) return errand;
  const target = await targetOf(context, errand.host);
  const { out } = await call(context, target, ["worker", "list", "--json"], { silent: true });
  const port = errand.flags.findLast(([flag]) => flag === "--port")?.[1];
  const worker = PoolWorkers.parse(JSON.parse(lastLine(out))).workers.find((one) =>
    port === undefined ? one.worker_id === errand.args[0] : one.port === Number(port),
  );
  // One that is not there is missed over there, and one that says nothing of this is of an earlier rbees, which knows no such flags.
  if (worker === undefined || worker.joins === null) return errand;
  const { worker_id, registered, joins } = worker;
  const url = await orchestratorUrl(context);
  const named = has("--orchestrator");
  if (named) await checkReach(context, url, target);
  if (!named && !isSame(joins.orchestrator, url)) {
    if (joins.orchestrator !== null)
      context.say(
        `${worker_id} is of the orchestrator at ${joins.orchestrator}, and stays so: --orchestrator ${url} takes it to that one.`,
      );
    return errand;
  }
  const whom: Invited = { pool: joins.pool ?? target.name, worker_id, address: joins.address, region: joins.region };
  const is_known = registered === true && !named;
  const token = is_known
    ? {}
    : await invitation(context, url, whom).catch((error) => {
        // It has a credential, which may do.
        if (named || !(error instanceof RbeesError)) throw error;
        return {};
      });
  const announced: Errand["flags"] = joins.address === undefined ? [] : [["--advertise", joins.address]];
  const handover = { ...token, ...(await trustFor(context, { flags: announced }, url, target)) };
  return told(errand, handover, named ? [["--orchestrator", url]] : []);
}

/** Loopback has several names. */
function isSame(one: string | null, other: string): boolean {
  const plain = (url: string) => (isLoopback(hostOf(url)) ? url.replace(/\/\/[^/]*?(?=(:\d+)?(\/|$))/, "//") : url);
  return one !== null && plain(one) === plain(other);
}

/** With further flags, and what it gets on stdin. */
function told(errand: Errand, handover: Handover, more: Errand["flags"]): Errand {
  const flags = [...errand.flags.filter(([flag]) => flag !== "--orchestrator" && flag !== "--handover"), ...more];
  if (Object.keys(handover).length === 0) return { ...errand, flags };
  return { ...errand, flags: [...flags, ["--handover", undefined]], handover: JSON.stringify(handover) };
}

/** Throws what to do where a worker there could not reach the orchestrator, or that does not answer. */
async function checkReach(context: Context, url: string, target: Target): Promise<void> {
  const hostname = target.here ? "localhost" : (await resolved(context, target)).hostname;
  if (isLoopback(hostOf(url)) && !isLoopback(hostname)) throw await outOfReach(url, target, hostname);
  await (await orchestratorOf(context)).call("health", {});
}

/** Whom the workers there can trust, and a certificate for them: for a key that is made there and stays there. */
async function trustFor(context: Context, { flags }: Pick<Errand, "flags">, url: string, target: Target): Promise<Handover> {
  if (target.here || !url.startsWith("https:")) return {};
  const file = join(tlsFolder(context.home), CA_FILE);
  const ca = await readFile(context.ca ?? file, "utf8").catch(() => undefined);
  const { allowedNames, hasAuthority, issue } = await import("../tls/authority.ts");
  if (!hasAuthority(context) || flags.some(([flag]) => flag === "--insecure-no-tls")) return ca === undefined ? {} : { ca };
  const more = flags.filter(([flag]) => flag === "--advertise").flatMap(([, value]) => (value === undefined ? [] : [`--name=${value}`]));
  const { out } = await call(context, target, ["tls", "request", "--json", ...more], { silent: true });
  const request = CertificateRequest.parse(JSON.parse(lastLine(out)));
  return { ca, certificate: await issue(context, { public_key: request.public_key, names: allowedNames(context, request.names) }) };
}

/** With `--handover` the orchestrator itself calls, and has said on stdin what goes along. */
async function handoverFor(context: Context, { flags }: Errand, url: string, target: Target): Promise<Handover> {
  if (flags.some(([flag]) => flag === "--handover")) return readHandover(context);
  if (flags.some(([flag]) => flag === "--token-file")) return {};
  const last = (name: string) => flags.findLast(([flag]) => flag === name)?.[1];
  const labelled = flags.filter(([flag]) => flag === "--labels").flatMap(([, value]) => value?.split(",") ?? []);
  const pool = labelled.findLast((label) => label.startsWith(POOL_LABEL_SIGN))?.slice(POOL_LABEL_SIGN.length) ?? target.name;
  const whom = { pool, worker_id: last("--name"), address: last("--advertise"), region: last("--region") };
  return (await invitation(context, url, whom)) ?? {};
}

async function outOfReach(url: string, target: Target, hostname: string): Promise<RbeesError> {
  const address = await addressTowards(hostname).catch(() => "ADDRESS");
  return new RbeesError(
    "CONFLICT",
    `A worker on ${target.name} can't reach the orchestrator at ${url}, which only this machine can. Let it listen on your network: \`rbees down\`, then \`rbees up --listen ${address}\` (it asks for keys there), and try again; or name another orchestrator with --orchestrator, or \`--orchestrator none\` for a worker that belongs to none.`,
  );
}
