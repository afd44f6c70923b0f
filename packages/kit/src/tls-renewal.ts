/**
 * The certificate of a program that runs: taken up anew when its files have changed, for connections from then on, while those that are
 * open go on with the old one; and told of in the log before it expires.
 */
import { X509Certificate } from "node:crypto";
import { statSync } from "node:fs";
import type { Server } from "node:https";
import { number } from "./config.ts";
import type { Log } from "./log.ts";
import { expiryOf, readTls, type Tls, type TlsFiles } from "./tls.ts";

/** Settings of every program that shows one. */
export const renewalSettings = {
  tls_reload_ms: number({ default: 10_000, min: 10, help: "How often the files of the certificate are looked at for a new one" }),
} as const;

const TOLD_AGAIN_MS = 86_400_000;

/** Gives what ends it. */
export function keepCertificate(
  server: Server,
  first: Tls & TlsFiles,
  { tls_reload_ms, log }: { tls_reload_ms: number; log: Log },
): () => void {
  const { cert_file, key_file } = first;
  let shown: Tls = first;
  let seen = stampOf(cert_file, key_file);
  let told_at_ms = Number.NEGATIVE_INFINITY;
  const tellExpiry = () => {
    if (performance.now() - told_at_ms < TOLD_AGAIN_MS) return;
    const expiry = expiryOf(new X509Certificate(shown.cert), Date.now());
    if (expiry === undefined) return;
    told_at_ms = performance.now();
    log[expiry.expired ? "error" : "warn"]({ cert_file, expires_at: expiry.expires_at }, expiry.sentence);
  };
  const look = () => {
    const stamp = stampOf(cert_file, key_file);
    if (stamp !== seen) {
      seen = stamp;
      try {
        const read = readTls(cert_file, key_file);
        if (read.cert !== shown.cert || read.key !== shown.key) {
          server.setSecureContext({ cert: read.cert, key: read.key, minVersion: "TLSv1.2" });
          shown = read;
          told_at_ms = Number.NEGATIVE_INFINITY;
          log.info(
            { cert_file, expires_at: new X509Certificate(read.cert).validToDate.toISOString() },
            "a new certificate is shown from now on",
          );
        }
      } catch (error) {
        // Perhaps one of the two is still to come.
        log.warn(
          { cert_file, why: (error as Error).message },
          "the files of the certificate have changed, and can't be taken up; the one of before is shown on",
        );
      }
    }
    tellExpiry();
  };
  tellExpiry();
  const timer = setInterval(look, tls_reload_ms);
  timer.unref();
  return () => clearInterval(timer);
}

/** Another one when either file was written or replaced. */
function stampOf(...files: readonly string[]): string {
  return files
    .map((file) => {
      const stats = statSync(file, { throwIfNoEntry: false });
      return stats === undefined ? "gone" : `${stats.mtimeMs} ${stats.ino} ${stats.size}`;
    })
    .join();
}
