/** What `rbees doctor` says of certificates: those in the folder `tls`, and the one that the orchestrator shows. */
import { X509Certificate } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expiryOf, notYet, readTls, tlsFolder } from "@rbees/kit/tls";
import type { Context } from "../context.ts";
import { orchestratorUrl } from "../orchestrator.ts";
import type { Check } from "./check.ts";

/** What our programs show, each with its key beside it. */
const SERVING = ["orcd.pem", "worker.pem"];
const CONNECT_MS_MAX = 3000;

export async function certificates(context: Context): Promise<Check[]> {
  const folder = tlsFolder(context.home);
  const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".pem")) : [];
  const checks = files.sort().map((name): Check => {
    const file = join(folder, name);
    try {
      const checked = check(`certificate ${name}`, new X509Certificate(readFileSync(file)));
      return checked.level === "fail" || !SERVING.includes(name) ? checked : { ...checked, ...trouble(file) };
    } catch {
      return { name: `certificate ${name}`, level: "fail", found: `${file} can't be read as a certificate`, next: "rbees tls init" };
    }
  });
  const url = await orchestratorUrl(context).catch(() => undefined);
  const shown = url === undefined ? undefined : await shownAt(url);
  return shown === undefined ? checks : [...checks, check("certificate of the orchestrator", shown)];
}

/** Of a certificate that can't be shown: its key is gone, is another's, or is open to others. */
function trouble(cert_file: string): Pick<Check, "level" | "found" | "next"> | undefined {
  try {
    readTls(cert_file, cert_file.replace(/pem$/, "key"));
    return undefined;
  } catch (error) {
    return {
      level: "fail",
      found: (error as Error).message,
      next: "put the key back (mode 0600), or move it away: `rbees tls renew` makes a new one where the certificate was made",
    };
  }
}

function check(name: string, certificate: X509Certificate): Check {
  const now_ms = Date.now();
  const early = notYet(certificate, now_ms);
  if (early !== undefined) return { name, level: "fail", found: early, next: "set the clock: timedatectl, or whatever keeps it here" };
  const expiry = expiryOf(certificate, now_ms);
  if (expiry === undefined) return { name, level: "ok", found: `until ${certificate.validToDate.toISOString()}` };
  const { expired, sentence } = expiry;
  return { name, level: expired ? "fail" : "warn", found: sentence, next: "rbees tls renew, where it was made" };
}

/** Whatever it shows: whether it is trusted is looked at elsewhere. */
async function shownAt(url: string): Promise<X509Certificate | undefined> {
  const { protocol, hostname, port } = new URL(url);
  if (protocol !== "https:") return undefined;
  const { connect } = await import("node:tls");
  return new Promise((resolve) => {
    const host = hostname.replace(/^\[(.*)\]$/, "$1");
    const socket = connect({ host, port: Number(port || 443), rejectUnauthorized: false, timeout: CONNECT_MS_MAX });
    const done = (found?: X509Certificate) => {
      socket.destroy();
      resolve(found);
    };
    socket.once("secureConnect", () => done(socket.getPeerX509Certificate()));
    socket.once("timeout", () => done());
    socket.once("error", () => done());
  });
}
