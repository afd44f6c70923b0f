/** An orchestrator that asks its callers for a key, or for a key and TLS, made as an operator makes one. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Trust } from "./messages.ts";

export type TrustMode = "keys" | "keys and TLS";

const RBEES = fileURLToPath(new URL("../../packages/cli/src/rbees.ts", import.meta.url));

/** What callers show it, and the flags it is started with. `program`: the command that starts it. */
export function trusted(mode: TrustMode, program: readonly string[], data_dir: string): { trust: Trust; flags: string[] } {
  const [node = "", ...args] = program;
  mkdirSync(data_dir, { recursive: true, mode: 0o700 });
  const key = said(node, [...args, "keys", "create", "bench", "--role", "submit,operate", "--data-dir", data_dir]);
  const flags = ["--auth-required"];
  if (mode === "keys") return { trust: { key }, flags };
  const home = join(data_dir, "home");
  said(node, [RBEES, "tls", "init", "--quiet"], { RBEES_HOME: home });
  const file = (name: string) => join(home, "config", "tls", name);
  const text = (name: string) => readFileSync(file(name), "utf8");
  flags.push("--tls-cert", file("orcd.pem"), "--tls-key", file("orcd.key"), "--tls-ca", file("ca.pem"));
  return { trust: { key, tls: { ca: text("ca.pem"), worker_cert: text("worker.pem"), worker_key: text("worker.key") } }, flags };
}

function said(node: string, args: readonly string[], env: Record<string, string> = {}): string {
  return execFileSync(node, args, { encoding: "utf8", env, stdio: ["ignore", "pipe", "pipe"] }).trim();
}
