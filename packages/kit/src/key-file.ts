/** Files that hold an API key: which ones there are, and that only their owner can read them. */
import { readFileSync, statSync } from "node:fs";
import { RbeesError } from "@rbees/contracts/errors";
import { API_KEY } from "@rbees/contracts/key";

/** In the config folder: what `rbees` shows the orchestrator. */
export const OPERATOR_KEY_FILE = "api.key";
/** In the config folder: what the workers of this host show it. */
export const WORKER_KEY_FILE = "worker.key";

/** The key in the file, or undefined when there is none and none is required. Nothing of what is in it is ever said. */
export function readKeyFile(path: string, required: boolean): string | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && !required) return undefined;
    throw new RbeesError("INVALID_REQUEST", `The key file ${path} can't be read: ${code === "ENOENT" ? "there is none" : message}.`, {
      cause: error,
    });
  }
  // Windows says 0666 of every file; its rights are elsewhere.
  if (process.platform !== "win32" && (statSync(path).mode & 0o077) !== 0)
    throw new RbeesError(
      "INVALID_REQUEST",
      `Others can read the key file ${path}: \`chmod 600 ${path}\`, and rotate the key if they might have.`,
    );
  const key = text.trim();
  if (!API_KEY.test(key))
    throw new RbeesError(
      "INVALID_REQUEST",
      `The file ${path} holds no API key: it is one line, rbk_… as \`rbees keys create\` printed it.`,
    );
  return key;
}
