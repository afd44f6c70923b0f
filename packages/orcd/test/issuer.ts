/** A real issuer of tokens (`oidc-provider`) on a random port; its keys, for tokens that it would never make; and trouble with it. */

import type { webcrypto } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { exportJWK, generateKeyPair, type JWTHeaderParameters, type JWTPayload, SignJWT } from "jose";
import { type JWK, Provider } from "oidc-provider";
import type { Lifetime } from "../../../test/support/cluster.ts";

export const AUDIENCE = "urn:rbees:test";
export const SIGNED_WITH = ["RS256", "PS256", "ES256", "EdDSA"] as const;
type Algorithm = (typeof SIGNED_WITH)[number];

export interface SigningKey {
  readonly private_key: webcrypto.CryptoKey;
  readonly jwk: JWK;
}

/** Somebody whom the issuer knows: a client of its own, whose tokens have these claims. */
export interface Known {
  readonly id: string;
  readonly claims?: Record<string, unknown>;
  readonly alg?: Algorithm;
  readonly seconds?: number;
}

/** Undefined: left out. */
type Claims = { [Name in keyof JWTPayload]: JWTPayload[Name] | undefined };

export interface Issuer {
  readonly url: string;
  /** What it was asked for, by path. */
  readonly asked: string[];
  /** The key that signs RS256 now. */
  readonly key: SigningKey;
  /** Goes to the token endpoint as its client does. */
  token(id: string): Promise<string>;
  /** A token of its making in all but the maker: signed with `key`, else with its own. */
  forged(claims: Claims, header?: Partial<JWTHeaderParameters>, key?: SigningKey["private_key"] | Uint8Array): Promise<string>;
  /** A new key; those of before are gone. */
  rotate(): Promise<void>;
  /** Answers everything so, until it is undone. */
  answersWith(answer: ((request: IncomingMessage, response: ServerResponse) => void) | undefined): void;
  stop(): Promise<void>;
  again(): Promise<void>;
}

export async function signingKey(alg: Algorithm, kid: string): Promise<SigningKey> {
  const { privateKey: private_key } = await generateKeyPair(alg, { extractable: true });
  return { private_key, jwk: { ...(await exportJWK(private_key)), kid, alg, use: "sig" } as JWK };
}

/** They take a while to make. */
const FIRST_KEYS = Promise.all(SIGNED_WITH.map((alg) => signingKey(alg, alg)));

export async function startIssuer(t: Lifetime, known: readonly Known[]): Promise<Issuer> {
  const asked: string[] = [];
  let answer: ((request: IncomingMessage, response: ServerResponse) => void) | undefined;
  let handle: (request: IncomingMessage, response: ServerResponse) => unknown = () => {};
  let server: Server;
  const listen = async (port: number) => {
    server = createServer((request, response) => {
      asked.push(request.url ?? "");
      if (answer === undefined) handle(request, response);
      else answer(request, response);
    });
    await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
    return (server.address() as AddressInfo).port;
  };
  const stop = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  const port = await listen(0);
  t.after(stop);
  const url = `http://127.0.0.1:${port}`;
  let generation = 0;
  let keys: SigningKey[] = [];
  const make = async () => {
    keys = generation === 0 ? await FIRST_KEYS : [await signingKey("RS256", `RS256-${generation}`)];
    generation += 1;
    handle = provider(url, known, keys).callback();
  };
  await make();
  const first = () => keys[0] as SigningKey;
  return {
    url,
    asked,
    get key() {
      return first();
    },
    async token(id) {
      const response = await fetch(`${url}/token`, {
        method: "POST",
        headers: { authorization: `Basic ${btoa(`${id}:${secretOf(id)}`)}`, "content-type": "application/x-www-form-urlencoded" },
        body: new URLSearchParams({ grant_type: "client_credentials", resource: AUDIENCE }),
      });
      const { access_token } = (await response.json()) as { access_token?: string };
      if (access_token === undefined) throw new Error(`the issuer gave no token to ${id}: ${response.status}`);
      return access_token;
    },
    forged(claims, header = {}, key = first().private_key) {
      const now_s = Math.floor(Date.now() / 1000);
      const whole = { iss: url, aud: AUDIENCE, sub: "forged", iat: now_s, exp: now_s + 300, ...claims };
      const said = Object.fromEntries(Object.entries(whole).filter(([, value]) => value !== undefined));
      return new SignJWT(said).setProtectedHeader({ alg: "RS256", kid: first().jwk.kid as string, ...header }).sign(key);
    },
    rotate: make,
    answersWith(other) {
      answer = other;
    },
    stop,
    async again() {
      await listen(port);
    },
  };
}

function provider(url: string, known: readonly Known[], keys: readonly SigningKey[]): Provider {
  const of = new Map(known.map((one) => [one.id, one]));
  return new Provider(url, {
    clients: known.map(({ id }) => ({
      client_id: id,
      client_secret: secretOf(id),
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
    })),
    jwks: { keys: keys.map(({ jwk }) => jwk) },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, _resource, client) => ({
          scope: "",
          audience: AUDIENCE,
          accessTokenFormat: "jwt",
          accessTokenTTL: of.get(client.clientId)?.seconds ?? 300,
          jwt: { sign: { alg: of.get(client.clientId)?.alg ?? "RS256" } },
        }),
      },
    },
    extraTokenClaims: (_context, token) => of.get(token.clientId as string)?.claims as never,
  });
}

function secretOf(id: string): string {
  return `the secret of ${id}, which is long enough`.replaceAll(/\W/g, "-");
}
