/**
 * Bearer tokens of an OpenID Connect issuer: checked against its keys, which are fetched when a token needs them and believed for a while,
 * and read for whose they are and what they may do. The issuer says who somebody is; what that is worth here the configuration says.
 */
import { RbeesError } from "@rbees/contracts/errors";
import type { Role } from "@rbees/contracts/key";
import { ROLES } from "@rbees/contracts/sets";
import type { Log } from "@rbees/kit/log";
import { isLoopback } from "@rbees/kit/network";
import type { createRemoteJWKSet, JWTPayload, JWTVerifyResult, jwtVerify } from "jose";
import type { OrcdConfig } from "./config.ts";

export type OidcConfig = Pick<OrcdConfig, Extract<keyof OrcdConfig, `oidc_${string}`>>;

/** Whom a token speaks for. */
export interface OidcSubject {
  /** As the audit trail names them: no key has a colon in its id. */
  readonly who: string;
  /** Undefined: the token names none. */
  readonly tenant: string | undefined;
  readonly roles: ReadonlySet<string>;
}

/** Signatures that only the issuer can make. Of a shared secret (HS…) whoever can check it can make it, and `none` is none. */
const ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"];
/** The kinds of token that are shown as a bearer's. One made for another use (logout, DPoP) is none, whoever signed it. */
const TYPES: readonly (string | undefined)[] = [undefined, "jwt", "at+jwt", "application/at+jwt"];
/** OpenID Connect bounds a subject so; it goes into the record as it is. */
const SUBJECT = /^[\x20-\x7e]{1,255}$/;
/** Of the issuer's description, and of its keys. */
const ANSWER_BYTES_MAX = 262_144;

type Keys = ReturnType<typeof createRemoteJWKSet>;

export class Oidc {
  readonly #config: OidcConfig;
  readonly #log: Log;
  #checking: Promise<{ verify: typeof jwtVerify; keys: Keys }> | undefined;
  #failed_at_ms = Number.NEGATIVE_INFINITY;

  private constructor(config: OidcConfig, log: Log) {
    this.#config = config;
    this.#log = log;
  }

  /** Undefined when no issuer is named; throws when what is said of it is not whole. `asks`: callers are asked for keys. */
  static of(config: OidcConfig, { asks, log }: { asks: boolean; log: Log }): Oidc | undefined {
    const problems = problemsOf(config, asks);
    if (problems.length > 0) throw new RbeesError("INVALID_REQUEST", `Refusing to start: ${problems.join(" ")}`);
    return config.oidc_issuer === "" ? undefined : new Oidc(config, log);
  }

  get issuer(): string {
    return this.#config.oidc_issuer;
  }

  /** Its tokens say whose a request is. */
  get names_tenants(): boolean {
    return this.#config.oidc_tenant_claim !== "";
  }

  /** Throws UNAUTHORIZED where the token is not good, ISSUER_UNREACHABLE where nobody can say. */
  async subject(token: string): Promise<OidcSubject> {
    const { payload } = await this.#verified(token);
    const { oidc_tenant_claim, oidc_tenants, oidc_role_claim, oidc_roles } = this.#config;
    const { sub = "" } = payload;
    if (!SUBJECT.test(sub)) throw refused("names nobody that can be written down: its sub must have 1 to 255 printable ASCII characters");
    if (payload["cnf"] !== undefined) throw refused("is bound to a key that its holder has to prove; only bearer tokens are taken here");
    const roles = oidc_role_claim === "" ? ["submit"] : meant(valuesOf(payload, oidc_role_claim), oidc_roles).filter(isRole);
    const tenants = oidc_tenant_claim === "" ? [] : meant(valuesOf(payload, oidc_tenant_claim), oidc_tenants);
    if (tenants.length > 1) {
      throw new RbeesError(
        "FORBIDDEN",
        `Your token's ${oidc_tenant_claim} names ${tenants.length} tenants, and a request is of one. oidc_tenants says which values count.`,
      );
    }
    return { who: `oidc:${this.issuer}#${sub}`, tenant: tenants[0], roles: new Set(roles) };
  }

  async #verified(token: string): Promise<JWTVerifyResult> {
    this.#checking ??= this.#load();
    const { verify, keys } = await this.#checking;
    let verified: JWTVerifyResult;
    try {
      verified = await verify(token, keys, {
        algorithms: ALGORITHMS,
        issuer: this.issuer,
        audience: this.#config.oidc_audience,
        clockTolerance: this.#config.oidc_clock_skew_ms / 1000,
        requiredClaims: ["exp", "sub"],
      });
    } catch (error) {
      throw error instanceof RbeesError ? error : this.#refusal(error);
    }
    if (!TYPES.includes(verified.protectedHeader.typ?.toLowerCase())) throw refused("is not one for access: its typ says another use");
    return verified;
  }

  /** The library is loaded with the first token. */
  async #load() {
    const { createRemoteJWKSet, customFetch, jwtVerify: verify } = await import("jose");
    const { oidc_keys_ms, oidc_retry_ms, oidc_call_ms_max } = this.#config;
    const keys = createRemoteJWKSet(new URL(this.issuer), {
      cacheMaxAge: oidc_keys_ms,
      cooldownDuration: oidc_retry_ms,
      timeoutDuration: oidc_call_ms_max,
      [customFetch]: (_: string, { signal }: { signal: AbortSignal }) => this.#fetchKeys(signal),
    });
    return { verify, keys };
  }

  /** Where the keys are is asked each time too: an issuer may move them. */
  async #fetchKeys(signal: AbortSignal): Promise<Response> {
    const { oidc_retry_ms } = this.#config;
    const again_ms = this.#failed_at_ms + oidc_retry_ms - performance.now();
    if (again_ms > 0) throw unreachable(again_ms);
    try {
      const described = await answerOf(`${this.issuer.replace(/\/$/, "")}/.well-known/openid-configuration`, signal);
      const { issuer, jwks_uri } = described;
      if (issuer !== this.issuer)
        throw new Error("it calls itself by another name than oidc_issuer; the two must be the same to the letter");
      if (typeof jwks_uri !== "string" || !isSafe(URL.parse(jwks_uri))) throw new Error("it names no https address of its keys (jwks_uri)");
      const keys = await answerOf(jwks_uri, signal);
      if (!Array.isArray(keys["keys"])) throw new Error("what it gives as its keys is no key set");
      return Response.json({ keys: keys["keys"].filter((key) => typeof key === "object" && key !== null) });
    } catch (error) {
      this.#failed_at_ms = performance.now();
      this.#log.warn({ issuer: this.issuer, err: error }, "the issuer of tokens could not be asked for its keys");
      throw unreachable(oidc_retry_ms);
    }
  }

  #refusal(error: unknown): RbeesError {
    const { code = "", claim = "" } = error as { code?: string; claim?: string };
    if (code === "ERR_JWT_EXPIRED") return refused("has expired: get a new one from its issuer");
    if (code === "ERR_JOSE_ALG_NOT_ALLOWED") return refused(`is not signed in a way that is taken here: ${ALGORITHMS.join(", ")}`);
    if (code === "ERR_JWKS_MULTIPLE_MATCHING_KEYS") return refused("does not say which of its issuer's keys signed it (kid)");
    if (code === "ERR_JWT_CLAIM_VALIDATION_FAILED") {
      if (claim === "iss") return refused(`is of another issuer; this orchestrator takes those of ${this.issuer}`);
      if (claim === "aud") return refused("is for another audience: ask its issuer for one whose aud is what oidc_audience says");
      if (claim === "nbf") return refused("is not valid yet: are the clocks right?");
      return refused(`has no ${claim}, or one that makes no sense`);
    }
    return refused("is not signed with a key of its issuer, or is damaged");
  }
}

function problemsOf(config: OidcConfig, asks: boolean): string[] {
  const { oidc_issuer, oidc_audience, oidc_roles, oidc_role_claim, oidc_tenants, oidc_tenant_claim } = config;
  const issuer = URL.parse(oidc_issuer);
  if (oidc_issuer === "") {
    const more = [oidc_audience, oidc_role_claim, oidc_tenant_claim].some((said) => said !== "");
    return more ? ["oidc_audience and claims are said without an oidc_issuer: name the issuer, or leave them out."] : [];
  }
  const unknown = Object.values(oidc_roles).filter((role) => !isRole(role));
  return [
    ...(isSafe(issuer) && issuer.search === "" && issuer.hash === ""
      ? []
      : ["oidc_issuer must be an https:// address without ? and # (http:// on loopback only), as the iss of its tokens says it."]),
    ...(oidc_audience === "" ? ["oidc_audience is missing: without it any token of the issuer would open this orchestrator."] : []),
    ...(unknown.length === 0 ? [] : [`oidc_roles means ${unknown.join(", ")}; there are ${ROLES.join(", ")}.`]),
    ...(Object.keys(oidc_roles).length > 0 && oidc_role_claim === "" ? ["oidc_roles needs oidc_role_claim."] : []),
    ...(Object.keys(oidc_tenants).length > 0 && oidc_tenant_claim === "" ? ["oidc_tenants needs oidc_tenant_claim."] : []),
    ...(asks ? [] : ["oidc_issuer is set, and nobody is asked for a token: say auth_required = true, and not insecure_no_auth."]),
  ];
}

/** Keys that came over an open wire could be anybody's. */
function isSafe(url: URL | null): url is URL {
  return url !== null && (url.protocol === "https:" || (url.protocol === "http:" && isLoopback(url.hostname.replace(/^\[|\]$/g, ""))));
}

/** The claim of this name; else what is at the path that its dots make (`realm_access.roles`). */
function valuesOf(payload: JWTPayload, claim: string): string[] {
  const step = (from: unknown, name: string) =>
    typeof from === "object" && from !== null && Object.hasOwn(from, name) ? (from as Record<string, unknown>)[name] : undefined;
  const found = step(payload, claim) ?? claim.split(".").reduce<unknown>(step, payload);
  if (typeof found === "string") return claim === "scope" ? found.split(" ") : [found];
  return Array.isArray(found) ? found.filter((value) => typeof value === "string") : [];
}

/** What the configuration makes of the values, each once; as they are where it says nothing. */
function meant(values: readonly string[], table: Readonly<Record<string, string>>): string[] {
  const named = Object.keys(table).length > 0;
  return [...new Set(values.flatMap((value) => (named ? (Object.hasOwn(table, value) ? [table[value] as string] : []) : [value])))];
}

function isRole(name: string): name is Role {
  return (ROLES as readonly string[]).includes(name);
}

async function answerOf(url: string, signal: AbortSignal): Promise<Record<string, unknown>> {
  const response = await fetch(url, { signal, redirect: "error", headers: { accept: "application/json" } });
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`${url} answered ${response.status}`);
  }
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of response.body ?? []) {
    bytes += part.length;
    if (bytes > ANSWER_BYTES_MAX) throw new Error(`${url} answered with more than ${ANSWER_BYTES_MAX} bytes`);
    parts.push(part);
  }
  const answer: unknown = JSON.parse(Buffer.concat(parts).toString("utf8"));
  if (typeof answer !== "object" || answer === null) throw new Error(`${url} answered with no JSON object`);
  return answer as Record<string, unknown>;
}

function unreachable(retry_after_ms: number): RbeesError {
  return new RbeesError(
    "ISSUER_UNREACHABLE",
    "Whether your token is good can't be said now: its issuer does not give its keys. Try again in a moment, or use an API key; the orchestrator's log says why.",
    { retry_after_ms },
  );
}

function refused(why: string): RbeesError {
  return new RbeesError("UNAUTHORIZED", `Your token ${why}.`, {
    headers: { "www-authenticate": 'Bearer realm="rbees", error="invalid_token"' },
  });
}
