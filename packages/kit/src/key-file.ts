/** Files that hold one secret on one line: API keys, join tokens, what a worker's door asks for. Only their owner can read them. */
import { RbeesError } from "@rbees/contracts/errors";
import { DOOR_SECRET, JOIN_TOKEN, WORKER_CREDENTIAL } from "@rbees/contracts/join";
import { API_KEY, ISSUED_TOKEN } from "@rbees/contracts/key";
import { type PrivateFile, readPrivateFile } from "./private-file.ts";

/** In the config folder: what `rbees` shows the orchestrator. */
export const OPERATOR_KEY_FILE = "api.key";

export interface SecretKind {
  readonly what: string;
  readonly form: RegExp;
  readonly looks: string;
}
export const KEY: SecretKind = {
  what: "API key",
  form: new RegExp(`${API_KEY.source}|${ISSUED_TOKEN.source}`),
  looks: "rbk_… as `rbees keys create` printed it, or a token of your issuer",
};
export const JOIN: SecretKind = { what: "join token", form: JOIN_TOKEN, looks: "rbj_… as `rbees workers invite` printed it" };
export const CREDENTIAL: SecretKind = { what: "worker's credential", form: WORKER_CREDENTIAL, looks: "rbw_…" };
/** Of another server, in whatever form that has. */
export const ENGINE_KEY: SecretKind = { what: "key", form: /^[!-~]{1,4096}$/, looks: "without spaces" };
export const DOOR: SecretKind = { what: "worker's secret", form: DOOR_SECRET, looks: "43 letters, digits, - and _" };

/** The secret in the file, or undefined when there is none and none is required. Nothing of what is in it is ever said. */
export function readSecretFile(path: string, required: boolean, { what, form, looks }: SecretKind): string | undefined {
  const file = fileAt(path);
  if (file === undefined && !required) return undefined;
  if (file === undefined) throw new RbeesError("INVALID_REQUEST", `The file ${path}, for the ${what}, can't be read: there is none.`);
  if (file.open_to_others)
    throw new RbeesError(
      "INVALID_REQUEST",
      `Others can read ${path}, which holds a secret: \`chmod 600 ${path}\`, and replace it if they might have.`,
    );
  const secret = file.text.trim();
  if (!form.test(secret)) throw new RbeesError("INVALID_REQUEST", `The file ${path} holds no ${what}: it is one line, ${looks}.`);
  return secret;
}

function fileAt(path: string): PrivateFile | undefined {
  try {
    return readPrivateFile(path);
  } catch (error) {
    throw new RbeesError("INVALID_REQUEST", `The file ${path} can't be read: ${(error as Error).message}.`, { cause: error });
  }
}
