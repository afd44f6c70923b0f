/** An orchestrator that asks for keys, a worker of it, and clients of several tenants. */
import type { TestContext } from "node:test";
import { type Client, createClient } from "@rbees/contracts/client";
import type { CreateKey } from "@rbees/contracts/key";
import { orcdRoutes } from "@rbees/contracts/routes";
import type { CreateTenant } from "@rbees/contracts/tenant";
import { temporaryFolder } from "../../../test/support/cluster.ts";
import { type FakeWorker, startFakeWorker } from "../../../test/support/fake-worker.ts";
import type { OrcdConfig } from "../src/config.ts";
import { Keyring } from "../src/keyring.ts";
import { databaseIn, openStore } from "../src/store/open.ts";
import { type Harness, startHarness } from "./harness.ts";

export const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

/** Somebody with a key. */
export interface Who {
  readonly key: string;
  readonly key_id: string;
  readonly client: Client<typeof orcdRoutes>;
  send(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Response>;
}

export interface TenantsHarness {
  readonly orcd: Harness;
  readonly worker: FakeWorker;
  readonly data_dir: string;
  readonly operator: Who;
  /** A key as asked for; its tenant is made first, if it is not there. */
  who(key: Partial<CreateKey>, tenant?: Partial<CreateTenant>): Promise<Who>;
  /** The same orchestrator once more, after a stop; keys go on. */
  again(): Promise<{ orcd: Harness; worker: FakeWorker; as: (who: Who) => Who }>;
}

export async function startTenants(t: TestContext, overrides: Partial<OrcdConfig> = {}, slots = 1): Promise<TenantsHarness> {
  const data_dir = temporaryFolder(t, "tenants");
  const store = await openStore(databaseIn(data_dir));
  const keys = await Keyring.open(store);
  const { key } = await keys.create({ name: "first", roles: ["operate"] }, undefined);
  await store.close();
  const start = async () => {
    const orcd = await startHarness(t, { auth_required: true, ...overrides }, data_dir);
    const door = "d".repeat(43);
    const worker = await startFakeWorker("w1", "fake", door);
    t.after(() => worker.close());
    const { token } = await person(orcd, key).client.call("inviteWorker", { body: { worker_id: "w1" } });
    const secrets = { door, credential_sha256: "c".repeat(64) };
    const registration = {
      id: "w1",
      model: "fake",
      host: "127.0.0.1",
      port: worker.port,
      backend: "cpu",
      slots,
      features: ["embeddings"],
      ...secrets,
    };
    const registered = await person(orcd, token).send("POST", "/workers/register", registration);
    if (!registered.ok) throw new Error(await registered.text());
    return { orcd, worker };
  };
  const { orcd, worker } = await start();
  const operator = person(orcd, key);
  const made = new Set(["default"]);
  return {
    orcd,
    worker,
    data_dir,
    operator,
    async who(asked, tenant = {}) {
      const { tenant: name } = asked;
      if (name !== undefined && !made.has(name)) await operator.client.call("createTenant", { body: { name, ...tenant } });
      if (name !== undefined) made.add(name);
      const body = { name: name ?? "somebody", roles: ["submit"] as CreateKey["roles"], ...asked };
      return person(orcd, (await operator.client.call("createKey", { body })).key);
    },
    async again() {
      await orcd.orcd.stop();
      const next = await start();
      return { ...next, as: (who) => person(next.orcd, who.key) };
    },
  };
}

function person({ url }: Harness, key: string): Who {
  return {
    key,
    key_id: key.split("_")[1] ?? "",
    client: createClient(orcdRoutes, url, { headers: bearer(key) }),
    send: (method, path, body, headers = {}) =>
      fetch(url + path, {
        method,
        headers: { ...bearer(key), ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      }),
  };
}
