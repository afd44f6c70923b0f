/** An authority of its own, and certificates by it in files. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { homeOf } from "@rbees/kit/home";
import { tlsFolder } from "@rbees/kit/tls";
import { ensureAuthority, issue } from "../src/tls/authority.ts";
import { publicKeyOf } from "../src/tls/request.ts";
import { bench } from "./harness.ts";

export async function setUpTls(t: TestContext) {
  const near = await bench((clean) => t.after(clean));
  const home = homeOf(near.env);
  const context = { ...near, home, say: () => {}, signal: new AbortController().signal } as unknown as Parameters<
    typeof ensureAuthority
  >[0];
  const ca = await ensureAuthority(context);
  const folder = tlsFolder(home);
  /** A certificate with its key, in files. */
  const certificate = async (name: string, names: string[], days = 1) => {
    const key = join(folder, `${name}.key`);
    writeFileSync(join(folder, `${name}.pem`), await issue(context, { public_key: publicKeyOf(key), names, days }));
    return { cert: readFileSync(join(folder, `${name}.pem`), "utf8"), key: readFileSync(key, "utf8") };
  };
  return { near, home, folder, context, ca, certificate };
}
