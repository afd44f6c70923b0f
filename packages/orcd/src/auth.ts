/** Whether callers are asked for keys: by where the orchestrator listens, unless it is told otherwise. */
import { RbeesError } from "@rbees/contracts/errors";
import { isLoopback } from "@rbees/kit/network";
import type { OrcdConfig } from "./config.ts";

type AuthConfig = Pick<OrcdConfig, "host" | "auth_required" | "insecure_no_auth">;

/** On loopback nobody is asked: whoever is on the machine could as well read the database. */
export function asksForKeys({ host, auth_required, insecure_no_auth }: AuthConfig): boolean {
  if (auth_required && insecure_no_auth)
    throw new RbeesError("INVALID_REQUEST", "auth-required and insecure-no-auth contradict each other; leave one of them out.");
  return !insecure_no_auth && (auth_required || !isLoopback(host));
}

/** The refusal to start where everybody would be refused. */
export function noKeys({ host, auth_required }: AuthConfig): RbeesError {
  const why =
    isLoopback(host) && auth_required ? "Keys are required (auth-required)" : `Others can reach ${host}, so every request needs a key`;
  return new RbeesError(
    "INVALID_REQUEST",
    `Refusing to start: ${why}, and its database has none. Make the first one with \`rbees-orcd keys create NAME --role operate\`, put it into the file api.key of the configuration folder (mode 0600) in place of any that is there, then start again. Or keep --host 127.0.0.1, name an issuer of tokens (--oidc-issuer), or say --insecure-no-auth if everybody on that network may use it.`,
  );
}
