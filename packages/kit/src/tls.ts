/**
 * The TLS of a program: which certificate it shows, and whom it trusts. Beyond loopback a program does not listen without, unless it is
 * told so by name. Certificates are made elsewhere (`rbees tls`); here they are read and looked at.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { fetchWith } from "./fetch-with.ts";
import type { Home } from "./home.ts";
import { isLoopback } from "./network.ts";
import { readPrivateFile } from "./private-file.ts";

/** In the folder `tls` of the configuration folder: the authority, and a certificate with its key for each kind of program. */
export const CA_FILE = "ca.pem";

export function tlsFolder({ config }: Pick<Home, "config">): string {
  return join(config, "tls");
}

export interface Tls {
  readonly cert: string;
  readonly key: string;
}

/** Where it was read, and is read again when it is renewed. */
export interface TlsFiles {
  readonly cert_file: string;
  readonly key_file: string;
}

export interface TlsSettings {
  readonly host: string;
  readonly tls_cert: string;
  readonly tls_key: string;
  readonly insecure_no_tls: boolean;
}

/** What it shows its callers; undefined: it speaks in clear. `program`: whose certificate is taken from the folder where none is named. */
export function serverTls(settings: TlsSettings, home: Home, program: "orcd" | "worker"): (Tls & TlsFiles) | undefined {
  const { host, tls_cert, tls_key, insecure_no_tls } = settings;
  const named = tls_cert !== "" || tls_key !== "";
  if (named && insecure_no_tls)
    throw new RbeesError("INVALID_REQUEST", "tls-cert and insecure-no-tls contradict each other; leave one of them out.");
  if (insecure_no_tls || (!named && isLoopback(host))) return undefined;
  if (named && (tls_cert === "" || tls_key === ""))
    throw new RbeesError("INVALID_REQUEST", "tls-cert and tls-key belong together: name the certificate and its key.");
  const folder = tlsFolder(home);
  const [cert_file, key_file] = named ? [tls_cert, tls_key] : [join(folder, `${program}.pem`), join(folder, `${program}.key`)];
  if (!named && (read(cert_file) === undefined || readPrivateFile(key_file) === undefined)) {
    const how =
      program === "orcd" ? "Make one with `rbees tls init`" : "`rbees pool worker spawn --host` brings one along; by hand, see docs/tls.md";
    throw new RbeesError(
      "INVALID_REQUEST",
      `Refusing to start: others can reach ${host}, and there is no certificate in ${folder}. ${how}, name one with --tls-cert and --tls-key, or say --insecure-no-tls if nobody on that network listens.`,
    );
  }
  return { ...readTls(cert_file, key_file), cert_file, key_file };
}

/** The two, looked at: whole, of each other, in time, and the key its owner's alone. */
export function readTls(cert_file: string, key_file: string): Tls {
  const cert = read(cert_file);
  const key = readPrivateFile(key_file);
  if (cert === undefined) throw new RbeesError("INVALID_REQUEST", `There is no certificate at ${cert_file}.`);
  if (key === undefined) throw new RbeesError("INVALID_REQUEST", `There is no key at ${key_file}.`);
  if (key.open_to_others) throw new RbeesError("INVALID_REQUEST", `Others can read the key ${key_file}: \`chmod 600 ${key_file}\`.`);
  check(cert, cert_file, key.text, key_file);
  return { cert, key: key.text };
}

/** From when on it is said that it will expire. */
const EXPIRES_SOON_MS = 14 * 86_400_000;

/** What is to be said of its end; undefined: nothing yet. */
export function expiryOf(
  { validToDate }: X509Certificate,
  now_ms: number,
): { expired: boolean; expires_at: string; sentence: string } | undefined {
  const left_ms = validToDate.getTime() - now_ms;
  if (left_ms > EXPIRES_SOON_MS) return undefined;
  const expires_at = validToDate.toISOString();
  const expired = left_ms <= 0;
  const when = expired ? `has expired, at ${expires_at}` : `expires at ${expires_at}`;
  return {
    expired,
    expires_at,
    sentence: `The certificate ${when}: \`rbees tls renew\` makes a new one, which is taken up without a restart.`,
  };
}

/** What is to be said of its beginning; undefined: it is good already. */
export function notYet({ validFromDate }: X509Certificate, now_ms: number): string | undefined {
  if (validFromDate.getTime() <= now_ms) return undefined;
  const [from, now] = [validFromDate.toISOString(), new Date(now_ms).toISOString()];
  return `The certificate is not valid before ${from}, and the clock here says ${now}: set the clock of this machine.`;
}

function check(cert: string, cert_file: string, key: string, key_file: string): void {
  const found = certificateIn(cert, cert_file);
  const now_ms = Date.now();
  const early = notYet(found, now_ms);
  if (early !== undefined) throw new RbeesError("INVALID_REQUEST", `${cert_file}: ${early}`);
  if (found.validToDate.getTime() < now_ms)
    throw new RbeesError(
      "INVALID_REQUEST",
      `The certificate ${cert_file} expired at ${found.validToDate.toISOString()}, and the clock here says ${new Date(now_ms).toISOString()}: \`rbees tls renew\` makes a new one, or \`rbees pool worker spawn --host\` for a worker on another machine; or set the clock.`,
    );
  let fits = false;
  try {
    fits = found.checkPrivateKey(createPrivateKey(key));
  } catch {
    throw new RbeesError("INVALID_REQUEST", `There is no private key in ${key_file}: it must be PEM.`);
  }
  if (!fits) throw new RbeesError("INVALID_REQUEST", `The key ${key_file} does not belong to the certificate ${cert_file}.`);
}

export function certificateIn(pem: string, file: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw new RbeesError("INVALID_REQUEST", `There is no certificate in ${file}: it must be PEM.`, { cause: error });
  }
}

/** The authorities that are trusted beside the well-known ones: of the file that was named, else of the one in the folder, if it is there. */
export function trusted(named: string, home: Home): string | undefined {
  const file = named === "" ? join(tlsFolder(home), CA_FILE) : named;
  const pem = read(file);
  if (pem === undefined && named !== "") throw new RbeesError("INVALID_REQUEST", `There is no certificate of an authority at ${named}.`);
  if (pem !== undefined) certificateIn(pem, file);
  return pem;
}

/** As `tls.connect` takes it. Undefined: the well-known ones. */
export function authorities(ca: string | undefined): string[] | undefined {
  // Asked for when it is needed: a command line that speaks to nobody need not load it.
  return ca === undefined ? undefined : [...process.getBuiltinModule("node:tls").rootCertificates, ca];
}

/** A `fetch` that trusts this authority too. */
export function fetchTrusting(ca: string | undefined): typeof fetch {
  return ca === undefined ? fetch : fetchWith({ connect: { ca: authorities(ca) } });
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new RbeesError("INVALID_REQUEST", `${file} can't be read: ${(error as Error).message}.`, { cause: error });
  }
}
