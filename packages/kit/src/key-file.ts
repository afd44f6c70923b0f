/** Files that hold an API key: which ones there are, and that only their owner can read them. */
import { RbeesError } from "@rbees/contracts/errors";
import { API_KEY } from "@rbees/contracts/key";
import { type PrivateFile, readPrivateFile } from "./private-file.ts";

/** In the config folder: what `rbees` shows the orchestrator. */
export const OPERATOR_KEY_FILE = "api.key";
/** In the config folder: what the workers of this host show it. */
export const WORKER_KEY_FILE = "worker.key";

/** The key in the file, or undefined when there is none and none is required. Nothing of what is in it is ever said. */
export function readKeyFile(path: string, required: boolean): string | undefined {
  const file = fileAt(path);
  if (file === undefined && !required) return undefined;
  if (file === undefined) throw new RbeesError("INVALID_REQUEST", `The key file ${path} can't be read: there is none.`);
  if (file.open_to_others)
    throw new RbeesError(
      "INVALID_REQUEST",
      `Others can read the key file ${path}: \`chmod 600 ${path}\`, and rotate the key if they might have.`,
    );
  const key = file.text.trim();
  if (!API_KEY.test(key))
    throw new RbeesError(
      "INVALID_REQUEST",
      `The file ${path} holds no API key: it is one line, rbk_… as \`rbees keys create\` printed it.`,
    );
  return key;
}

function fileAt(path: string): PrivateFile | undefined {
  try {
    return readPrivateFile(path);
  } catch (error) {
    throw new RbeesError("INVALID_REQUEST", `The key file ${path} can't be read: ${(error as Error).message}.`, { cause: error });
  }
}
