/** Where a `--host` points: a registered name, else what `ssh` makes of it. */
import { RbeesError } from "@rbees/contracts/errors";
import type { World } from "../context.ts";
import { readPools } from "./pools.ts";

export interface Target {
  /** What people call it: as it was given. */
  readonly name: string;
  /** For `ssh`: an alias of its configuration, a name or an address. */
  readonly host: string;
  readonly user: string | undefined;
  readonly port: number | undefined;
  /** This machine itself: no SSH is needed. */
  readonly here: boolean;
}

export async function targetOf(world: World, given: string): Promise<Target> {
  const pool = (await readPools(world))[given];
  return pool === undefined ? parseTarget(given) : { name: given, host: pool.host, user: pool.user, port: pool.port, here: false };
}

/** `host`, `user@host`, `host:port`, `user@[::1]:port`. */
export function parseTarget(given: string): Target {
  const { user, bracketed, plain, port } =
    /^(?:(?<user>[^@]*)@)?(?:\[(?<bracketed>[^\]]*)\]|(?<plain>[^@[\]]*?))(?::(?<port>\d+))?$/.exec(
      // An IPv6 address without brackets is one of several colons, and has no port.
      /:.*:/.test(given) && !given.includes("[") ? given.replace(/^([^@]*@)?(.*)$/, "$1[$2]") : given,
    )?.groups ?? {};
  const host = bracketed ?? plain ?? "";
  const number = port === undefined ? undefined : Number(port);
  // What begins with a dash would be a flag of ssh, such as one that runs a program here.
  if (!isName(host) || (user !== undefined && !isName(user)) || (number !== undefined && (number < 1 || number > 65_535))) {
    throw new RbeesError("INVALID_REQUEST", `--host: "${given}" is no host; give a registered name, an SSH alias or user@host[:port].`);
  }
  return { name: given, host, user, port: number, here: host === "localhost" && user === undefined && number === undefined };
}

function isName(text: string): boolean {
  return /^[^-\s\p{Cc}'"`$\\;|&<>(){}*?!#][^\s\p{Cc}'"`$\\;|&<>(){}*?!#]*$/u.test(text);
}
