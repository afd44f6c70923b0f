/** `rbees pool worker spawn … --host`: the worker is told which orchestrator it belongs to, by an address that leads there. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { isLoopback } from "@rbees/kit/network";
import { CA_FILE, tlsFolder } from "@rbees/kit/tls";
import type { Context } from "../context.ts";
import { addressTowards, hostOf } from "../local/route.ts";
import { orchestratorOf, orchestratorUrl } from "../orchestrator.ts";
import { type Handover, invitation, readHandover } from "../pool/handover.ts";
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
  const hostname = target.here ? "localhost" : (await resolved(context, target)).hostname;
  if (isLoopback(hostOf(url)) && !isLoopback(hostname)) throw await outOfReach(url, target, hostname);
  await (await orchestratorOf(context)).call("health", {});
  const handover = { ...(await handoverFor(context, errand, url, target)), ...(await trustFor(context, errand, url, target)) };
  const flags = errand.flags.filter(([flag]) => flag !== "--orchestrator" && flag !== "--handover");
  const patience: Errand["flags"] = flags.some(([flag]) => flag === "--registered-ms-max")
    ? []
    : [["--registered-ms-max", String(REGISTERED_MS_MAX)]];
  const told: Errand["flags"] = Object.keys(handover).length === 0 ? [] : [["--handover", undefined]];
  return {
    ...errand,
    flags: [...flags, ["--orchestrator", url], ...patience, ...told],
    handover: told.length === 0 ? undefined : JSON.stringify(handover),
  };
}

/** Whom the workers there can trust, and a certificate for them: for a key that is made there and stays there. */
async function trustFor(context: Context, { flags }: Errand, url: string, target: Target): Promise<Handover> {
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
