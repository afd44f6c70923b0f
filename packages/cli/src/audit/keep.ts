/** What is kept elsewhere to verify a trail by: public keys, and a head. */
import { createPublicKey, type KeyObject } from "node:crypto";
import { readFile } from "node:fs/promises";
import { RbeesError } from "@rbees/contracts/errors";
import { entryOfLine, exportLine, linkHash, recordOf } from "@rbees/kit/audit-chain";
import { HEAD, isSignedBy, keyId } from "@rbees/kit/audit-head";
import type { Context } from "../context.ts";
import { type Trail, unreadable } from "./trail.ts";

export async function publicKeys(files: readonly string[] | undefined): Promise<Map<string, KeyObject> | undefined> {
  if (files === undefined) return undefined;
  const keys = new Map<string, KeyObject>();
  for (const file of files) {
    const pem = await content(file);
    const key = ed25519(pem);
    if (key === undefined || pem.includes("PRIVATE")) {
      throw new RbeesError("INVALID_REQUEST", `${file} holds no public Ed25519 key in PEM; give the orchestrator's audit-key.pub.pem.`);
    }
    keys.set(keyId(key), key);
  }
  return keys;
}

function ed25519(pem: string): KeyObject | undefined {
  try {
    const key = createPublicKey(pem);
    return key.asymmetricKeyType === "ed25519" ? key : undefined;
  } catch {
    return undefined;
  }
}

/** The last head in `file`, as `rbees audit head` printed it; several may stand there, one a line. */
export async function keptHead(file: string, keys: ReadonlyMap<string, KeyObject> | undefined): Promise<Map<number, string>> {
  const line = (await content(file)).trimEnd().split("\n").at(-1) ?? "";
  const { seq, hash } = headIn(line, keys, `The last line of ${file}`, "give what rbees audit head printed");
  return new Map([[seq, hash]]);
}

/** All heads that the orchestrator wrote to its second file (`audit_anchor`). A crash may have left the last line unfinished. */
export async function anchoredHeads(file: string, keys: ReadonlyMap<string, KeyObject> | undefined): Promise<Map<number, string>> {
  const heads = new Map<number, string>();
  const lines = (await content(file)).split("\n").slice(0, -1);
  for (const [n, line] of lines.entries()) {
    const { seq, hash } = headIn(line, keys, `Line ${n + 1} of ${file}`, "give the orchestrator's audit_anchor");
    heads.set(seq, hash);
  }
  if (heads.size > 0) return heads;
  throw new RbeesError("INVALID_REQUEST", `${file} holds no head of an audit trail; give the orchestrator's audit_anchor.`);
}

function headIn(
  line: string,
  keys: ReadonlyMap<string, KeyObject> | undefined,
  where: string,
  todo: string,
): { seq: number; hash: string } {
  const entry = entryOfLine(line);
  const record = entry === undefined ? undefined : recordOf(entry);
  if (entry === undefined || record?.kind !== HEAD)
    throw new RbeesError("INVALID_REQUEST", `${where} is no head of an audit trail; ${todo}.`);
  const key = keys?.get(String(record["key"]));
  if (
    linkHash(entry.previous, entry.record) !== entry.hash ||
    (keys !== undefined && (key === undefined || !isSignedBy(key, entry, record)))
  ) {
    throw new RbeesError(
      "INVALID_REQUEST",
      `${where} was changed, or is signed with another key: it proves nothing. Give one that was kept safe.`,
    );
  }
  return { seq: record.seq, hash: entry.hash };
}

/** The last head of a trail, as a line to keep. */
export async function lastHead(context: Context, trail: Trail): Promise<string> {
  let head: string | undefined;
  for await (const items of trail.items()) {
    context.signal.throwIfAborted();
    for (const item of items) {
      // The quick look first: hardly any entry is one.
      if ("entry" in item && item.entry.record.includes(HEAD) && recordOf(item.entry)?.kind === HEAD) head = exportLine(item.entry);
    }
  }
  if (head !== undefined) return head;
  throw new RbeesError(
    "NOT_FOUND",
    `No head is signed in ${trail.file} yet: the orchestrator does that every audit_head_ms and when it stops.`,
  );
}

async function content(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw unreadable(file, error);
  }
}
