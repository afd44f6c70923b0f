/** What a host asks of the authority: a certificate for the names it has, to a key that it has made and that never leaves it. */
import { createPrivateKey, createPublicKey, generateKeyPairSync } from "node:crypto";
import { existsSync } from "node:fs";
import { hostname, networkInterfaces } from "node:os";
import { join } from "node:path";
import { readPrivateFile, writePrivateFile } from "@rbees/kit/private-file";
import { tlsFolder } from "@rbees/kit/tls";
import { z } from "zod";
import type { Context } from "../context.ts";

export const HERE = ["localhost", "127.0.0.1", "::1"];

export const CertificateRequest = z.object({
  public_key: z.string().max(4096).describe("PEM"),
  names: z.array(z.string().min(1).max(253)).min(1).max(64).describe("Names and addresses of the host"),
});
export type CertificateRequest = z.infer<typeof CertificateRequest>;

/** By which this host can be called: its name, its addresses, and those that every machine has for itself. */
export function namesOfHost(): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
  // Of a link-local address the same is everywhere.
  const outside = addresses.filter(({ internal, address }) => !internal && !/^(fe80:|169\.254\.)/i.test(address));
  return [...new Set([hostname(), ...HERE, ...outside.map(({ address }) => address)])];
}

/** The key in the file, which is made when there is none; and its public half, PEM. */
export function publicKeyOf(file: string): string {
  if (!existsSync(file)) {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    writePrivateFile(file, privateKey.export({ type: "pkcs8", format: "pem" }).toString());
  }
  const key = createPrivateKey(readPrivateFile(file)?.text ?? "");
  return createPublicKey(key).export({ type: "spki", format: "pem" }).toString();
}

/** For the workers of this host. */
export function requestCertificate({ home }: Context, more: readonly string[]): CertificateRequest {
  return { public_key: publicKeyOf(join(tlsFolder(home), "worker.key")), names: [...new Set([...namesOfHost(), ...more])] };
}
