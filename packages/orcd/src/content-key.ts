/** The key under which prompts and answers are kept: a file outside the database, made at the first start, the subjects' keys beside it. */
import { randomBytes } from "node:crypto";
import { RbeesError } from "@rbees/contracts/errors";
import { madeKey } from "./made-key.ts";
import type { ContentKey } from "./store/subject-keys.ts";

const KEY_BYTES = 32;

export function contentKeyIn(file: string): ContentKey {
  const master = madeKey(file, () => `${randomBytes(KEY_BYTES).toString("base64")}\n`, "read every prompt and answer that is kept").trim();
  if (!/^[A-Za-z0-9+/]{43}=$/.test(master))
    throw new RbeesError(
      "CONFLICT",
      `${file} holds no content key: it is one line, ${KEY_BYTES} bytes in base64. Restore it; or move it and ${subjectsFile(file)} away, and no prompt and no answer that is kept can be read any more.`,
    );
  return { master, subjects_file: subjectsFile(file) };
}

/** The file of the subjects' keys, beside the content key. */
export function subjectsFile(file: string): string {
  return `${file}-subjects.sqlite`;
}
