/**
 * The local certificate authority: a key and a certificate in the folder `tls` of the operator's configuration, and what it has issued.
 * X.509 itself is the business of a library.
 */
// The library wants this polyfill to be there before it.
import "reflect-metadata";

import { createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { RbeesError } from "@rbees/contracts/errors";
import { readPrivateFile, writePrivateFile } from "@rbees/kit/private-file";
import { CA_FILE, certificateIn, tlsFolder } from "@rbees/kit/tls";
import type { Context } from "../context.ts";
import { HERE, namesOfHost, publicKeyOf } from "./request.ts";

const DAY_MS = 86_400_000;
const CA_DAYS = 3650;
export const DAYS_DEFAULT = 365;
/** The clock of whoever reads it may be behind: by hours, where it was set to the time of another zone. */
const BEFORE_MS = DAY_MS;
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

export interface CertificateFacts {
  readonly file: string;
  readonly subject: string;
  readonly names: string[];
  readonly expires_at: string;
  readonly expired: boolean;
  readonly sha256: string;
}

cryptoProvider.set(globalThis.crypto);

const CA_KEY_FILE = "ca.key";

export function hasAuthority({ home }: Pick<Context, "home">): boolean {
  return existsSync(join(tlsFolder(home), CA_KEY_FILE));
}

/** PEM of the authority; made when there is none. */
export async function ensureAuthority(context: Context): Promise<string> {
  const folder = tlsFolder(context.home);
  const [cert_file, key_file] = [join(folder, CA_FILE), join(folder, CA_KEY_FILE)];
  if (existsSync(key_file)) return readFileSync(cert_file, "utf8");
  if (existsSync(cert_file)) {
    throw new RbeesError(
      "CONFLICT",
      `${cert_file} is the authority of another machine, which makes the certificates: \`rbees pool worker spawn --host\` from there brings one, or \`rbees tls issue\` there makes one by hand.`,
    );
  }
  const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const pem = pair.privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  const keys = {
    privateKey: await signingKey(pem),
    publicKey: await verifyingKey(pair.publicKey.export({ type: "spki", format: "pem" }).toString()),
  };
  const now_ms = Date.now();
  const made = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: [{ CN: [`rbees authority ${randomBytes(4).toString("hex")}`] }],
    notBefore: new Date(now_ms - BEFORE_MS),
    notAfter: new Date(now_ms + CA_DAYS * DAY_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const cert = `${made.toString("pem")}\n`;
  writePrivateFile(key_file, pem);
  writePrivateFile(cert_file, cert);
  context.say(
    `Made an authority for certificates here: ${cert_file}. Clients on other machines need that file (--ca); ${CA_KEY_FILE} beside it is its key, and stays.`,
  );
  return cert;
}

export interface Wanted {
  /** PEM. */
  readonly public_key: string;
  /** Names and addresses; the first is what it is called. */
  readonly names: readonly string[];
  readonly days?: number | undefined;
}

/** A server's certificate, PEM, by the authority of this host. */
export async function issue({ home }: Pick<Context, "home">, { public_key, names, days = DAYS_DEFAULT }: Wanted): Promise<string> {
  const folder = tlsFolder(home);
  const file = readPrivateFile(join(folder, CA_KEY_FILE));
  if (file === undefined) throw new RbeesError("NOT_FOUND", `There is no authority in ${folder}: \`rbees tls init\` makes one.`);
  if (file.open_to_others)
    throw new RbeesError(
      "INVALID_REQUEST",
      `Others can read ${join(folder, CA_KEY_FILE)}, and could make certificates: \`chmod 600\` it, or begin anew if they have.`,
    );
  const ca = new X509Certificate(readFileSync(join(folder, CA_FILE), "utf8"));
  const publicKey = await verifyingKey(public_key);
  const now_ms = Date.now();
  const alternatives = names.map((value) => ({ type: isIP(value) === 0 ? ("dns" as const) : ("ip" as const), value }));
  const made = await X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: [{ CN: [(names[0] ?? "").slice(0, 64)] }],
    issuer: ca.subjectName,
    notBefore: new Date(now_ms - BEFORE_MS),
    notAfter: new Date(Math.min(now_ms + days * DAY_MS, ca.notAfter.getTime())),
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: await signingKey(file.text),
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(alternatives),
      await AuthorityKeyIdentifierExtension.create(ca),
      await SubjectKeyIdentifierExtension.create(publicKey),
    ],
  });
  return `${made.toString("pem")}\n`;
}

/** The certificates of this host, for its orchestrator and its workers; the names that they had stay. */
export async function certifyThisHost(context: Context, more: readonly string[], days: number | undefined): Promise<CertificateFacts[]> {
  const folder = tlsFolder(context.home);
  const file = join(folder, "orcd.pem");
  const before = existsSync(file) ? factsOf(file).names : [];
  const names = [...new Set([...namesOfHost(), ...before, ...more])];
  const made: CertificateFacts[] = [];
  for (const program of ["worker", "orcd"]) {
    const public_key = publicKeyOf(join(folder, `${program}.key`));
    const cert_file = join(folder, `${program}.pem`);
    writePrivateFile(cert_file, await issue(context, { public_key, names, days }));
    made.unshift(factsOf(cert_file));
  }
  return made;
}

/** Authority and certificate for an orchestrator that listens there, unless it has them. */
export async function ensureCertificate(context: Context, host: string): Promise<void> {
  const folder = tlsFolder(context.home);
  const file = join(folder, "orcd.pem");
  if (existsSync(file)) {
    const { names, expired } = factsOf(file);
    if (!expired && (/^(0\.0\.0\.0|::)$/.test(host) || names.includes(host))) return;
  }
  await ensureAuthority(context);
  await certifyThisHost(context, /^(0\.0\.0\.0|::)$/.test(host) ? [] : [host], undefined);
}

/**
 * What the authority certifies of a request that came from another machine: what it says of itself, but not that it is this one. The names
 * that every machine has for itself are no claim.
 */
export function allowedNames({ home }: Pick<Context, "home">, asked: readonly string[]): string[] {
  const file = join(tlsFolder(home), "orcd.pem");
  const ours = new Set([...namesOfHost(), ...(existsSync(file) ? factsOf(file).names : [])]);
  return asked.filter((name) => HERE.includes(name) || !ours.has(name));
}

/** Every certificate in the folder. */
export function showCertificates({ home }: Pick<Context, "home">): CertificateFacts[] {
  const folder = tlsFolder(home);
  const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".pem")) : [];
  return files.sort().map((name) => factsOf(join(folder, name)));
}

function factsOf(file: string): CertificateFacts {
  const found = certificateIn(readFileSync(file, "utf8"), file);
  return {
    file,
    subject: found.subject.replace(/^CN=/, ""),
    names: (found.subjectAltName ?? "").split(", ").flatMap((entry) => {
      const name = /^(?:DNS|IP Address):(.*)$/.exec(entry)?.[1];
      return name === undefined ? [] : [shortAddress(name)];
    }),
    expires_at: found.validToDate.toISOString(),
    expired: found.validToDate.getTime() < Date.now(),
    sha256: found.fingerprint256.replaceAll(":", "").toLowerCase(),
  };
}

/** OpenSSL writes all eight parts of an IPv6 address; everybody else the short form. */
function shortAddress(name: string): string {
  return isIP(name) === 6 ? new URL(`http://[${name}]`).hostname.slice(1, -1) : name;
}

function serial(): string {
  // Positive, so the first bit is 0.
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x01;
  return bytes.toString("hex");
}

async function signingKey(pem: string) {
  const der = createPrivateKey(pem).export({ type: "pkcs8", format: "der" });
  return crypto.subtle.importKey("pkcs8", new Uint8Array(der), ALGORITHM, false, ["sign"]);
}

async function verifyingKey(pem: string) {
  let der: Buffer;
  try {
    der = createPublicKey(pem).export({ type: "spki", format: "der" });
    return await crypto.subtle.importKey("spki", new Uint8Array(der), ALGORITHM, true, ["verify"]);
  } catch (error) {
    throw new RbeesError(
      "INVALID_REQUEST",
      "The request holds no public key of the kind that `rbees-pool tls request` makes (P-256, PEM).",
      { cause: error },
    );
  }
}
