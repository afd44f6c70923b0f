/** `rbees-orcd backup …`: copies that an orchestrator can go on from, made while one runs (docs/backup.md). */
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import { text } from "@rbees/kit/config";
import { subjectsFile } from "./content-key.ts";
import { copyDatabase } from "./store/copy.ts";
import { databaseIn } from "./store/open.ts";

export const backupSettings = {
  keys_to: text<string>({ default: "", help: "Of `backup`: folder for copies of the keys; empty: they are not copied" }),
} as const;

interface Asked {
  readonly data_dir: string;
  readonly audit_key: string;
  readonly content_key: string;
  readonly keys_to: string;
}

/** What goes to stdout. */
export function backupCommand([to, ...more]: readonly string[], { data_dir, audit_key, content_key, keys_to }: Asked): string {
  if (to === undefined || more.length > 0)
    throw new RbeesError("INVALID_REQUEST", "Say `rbees-orcd backup FOLDER --keys-to FOLDER`: the keys are best kept apart.");
  const database = databaseIn(data_dir);
  const subjects = subjectsFile(content_key);
  const keys = keys_to === "" ? [] : [content_key, audit_key];
  const inFolder = (folder: string, file: string) => join(resolve(folder), basename(file));
  for (const file of [database, ...keys, ...(keys_to === "" ? [] : [subjects])]) {
    if (!existsSync(file))
      throw new RbeesError(
        "NOT_FOUND",
        `There is no ${file}: give --data-dir, --content-key and --audit-key as the orchestrator has them.`,
      );
    const copy = inFolder(file === database ? to : keys_to, file);
    if (existsSync(copy)) throw new RbeesError("CONFLICT", `${copy} is there already: give a new folder.`);
  }
  try {
    for (const folder of keys_to === "" ? [to] : [to, keys_to]) mkdirSync(folder, { recursive: true, mode: 0o700 });
    // A subject's key is durable before what is sealed with it: copied after the database, every key that it needs is there.
    copyDatabase(database, inFolder(to, database));
    if (keys_to === "") return `${inFolder(to, database)}\nWithout the keys (--keys-to) no prompt and no answer in it can be read.\n`;
    copyDatabase(subjects, inFolder(keys_to, subjects));
    for (const file of keys) copyFileSync(file, inFolder(keys_to, file));
  } catch (error) {
    throw new RbeesError(
      "CONFLICT",
      `There is no whole copy: ${(error as Error).message}. See that there is room, and that this user may write there and beside the database.`,
      { cause: error },
    );
  }
  return [inFolder(to, database), ...[subjects, ...keys].map((file) => inFolder(keys_to, file)), ""].join("\n");
}
