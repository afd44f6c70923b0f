/** A tenant whose jobs stay in the EU, with a worker outside that is free all the time: through every door, over losses and a restart. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { eventsOf, eventually, type Json, startHarness } from "./harness.ts";

const DE = { region: "de-fra1" };
const US = { region: "us-east", slots: 8 };

/** With `default` as that tenant: it is whose jobs are when nobody is asked. */
async function resident(t: Parameters<typeof startHarness>[0], data_dir?: string) {
  const orcd = await startHarness(t, {}, data_dir);
  const set = (residency: string | null) =>
    fetch(`${orcd.url}/v2/tenants/default`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ residency }),
    });
  return { orcd, set };
}

const why = async (orcd: Awaited<ReturnType<typeof resident>>["orcd"], id: string) => orcd.json(`/v2/tasks/${id}/explain`);

test("a tenant's residency is set, shown, checked and taken back; each change is in the audit trail", async (t) => {
  const { orcd, set } = await resident(t);
  assert.equal(((await (await set("eu")).json()) as Json).residency, "EU");
  assert.equal((await orcd.json("/v2/tenants/default")).residency, "EU");
  const refused = await set("in the EU");
  assert.equal(refused.status, 400);
  assert.match(((await refused.json()) as Json).error.message, /residency: up to 63 letters, digits/);
  const nowhere = await set("UE");
  assert.equal(nowhere.status, 400);
  assert.match(
    ((await nowhere.json()) as Json).error.message,
    /residency: names no area or country that there is \(UE\): there are EU, EEA,/,
  );
  assert.equal((await orcd.json("/v2/tenants/default")).residency, "EU", "as it was");
  assert.equal(((await (await set("DE-fsn1")).json()) as Json).residency, "de-fsn1");
  assert.equal(((await (await set(null)).json()) as Json).residency, null);
});

for (const [door, path, body, form] of [
  ["/v2", "/v2/tasks", { prompt: "hi", stream: true }, (error: Json) => error.error.code],
  [
    "OpenAI",
    "/v1/chat/completions",
    { messages: [{ role: "user", content: "hi" }], stream: true },
    (error: Json) => error.error.type === "permission_error" && error.error.code,
  ],
  [
    "Anthropic",
    "/v1/messages",
    { messages: [{ role: "user", content: "hi" }], max_tokens: 9, stream: true },
    (error: Json) => error.error.type === "permission_error" && error.error.details.error_code,
  ],
  [
    "Ollama",
    "/api/chat",
    { messages: [{ role: "user", content: "hi" }] },
    (error: Json) => /tenant default demands/.test(error.error) && "FORBIDDEN",
  ],
] as const) {
  test(`through ${door}: no job goes abroad, the answer that was lost goes on at home, and a pin abroad is refused`, async (t) => {
    const { orcd, set } = await resident(t);
    await set("EU");
    const home = await orcd.worker("w-de", DE);
    await orcd.worker("w-us", US);
    await orcd.worker("w-nowhere", { slots: 8 });
    const ask = (headers: Record<string, string> = {}) =>
      fetch(orcd.url + path, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify({
          model: "fake",
          ...body,
          ...(door === "/v2" && headers["x-rbees-pin"] ? { placement: { pin: headers["x-rbees-pin"] } } : {}),
        }),
      });
    const pinned = await ask({ "x-rbees-pin": "w-us" });
    assert.equal(pinned.status, 403);
    assert.equal(form(await pinned.json()), "FORBIDDEN");

    const answer = ask();
    const first = await home.next();
    first.started();
    first.tokens("eins ", "zwei ");
    const response = await answer;
    assert.match(response.headers.get("x-rbees-routing") ?? "", /worker=w-de/);
    await fetch(`${orcd.url}/workers/w-de`, { method: "DELETE" });
    const { job_id } = await eventually(async () => (await orcd.json("/v2/tasks?status=queued")).tasks[0]);
    const explained = await why(orcd, job_id);
    const reasons = Object.fromEntries(explained.workers.map(({ worker_id, reason }: Json) => [worker_id, reason]));
    assert.equal(reasons["w-us"], "tenant default demands a worker in EU, and its region is us-east");
    assert.equal(reasons["w-nowhere"], "tenant default demands a worker in EU, and it declares no region");
    const next = await orcd.worker("w-fr", { region: "fr" });
    const second = await next.next();
    assert.deepEqual(second.body.continue_from?.tokens, [1000, 1001]);
    second.started();
    second.tokens("drei");
    second.end();
    assert.match(await response.text(), /eins[\s\S]*zwei[\s\S]*drei/);
    const { attempts } = await orcd.json(`/v2/tasks/${job_id}`);
    assert.ok(attempts.every(({ worker_id }: Json) => worker_id !== "w-us" && worker_id !== "w-nowhere"));
  });
}

test("after a restart a job is still at home, and one whose tenant has been told meanwhile waits too", async (t) => {
  const before = await resident(t);
  await before.orcd.worker("w-us", { ...US, slots: 1 });
  await before.orcd.submit({});
  const { job_id } = (await (await before.orcd.submit({})).json()) as Json;
  await before.set("EU");
  await before.orcd.orcd.stop();
  const { orcd } = await resident(t, before.orcd.data_dir);
  assert.equal((await orcd.json("/v2/tenants/default")).residency, "EU");
  await orcd.worker("w-us", US);
  await eventually(async () => (await orcd.json("/v2/workers")).workers.length === 1);
  assert.match((await why(orcd, job_id)).answer, /tenant default demands a worker in EU, and no such worker serves fake/);
  const home = await orcd.worker("w-de", { ...DE, slots: 2 });
  for (const attempt of [await home.next(), await home.next()]) {
    attempt.started();
    attempt.tokens("ja");
    attempt.end();
  }
  const events = await eventsOf(await orcd.get(`/v2/tasks/${job_id}/events`));
  assert.equal(events.at(-1).type, "end");
});

test("a region that is none is refused when a worker registers, as are labels beyond their limits", async (t) => {
  const { orcd } = await resident(t);
  const many = Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`l${n}`, "x"]));
  for (const [more, problem] of [
    [{ region: "in the EU" }, /region: up to 63 letters/],
    [{ region: "xx" }, /region: names no country that there is \(xx\)/],
    [{ labels: many }, /labels: must have at most 64 labels/],
    [{ labels: { a: "x".repeat(256) } }, /labels\.a/],
  ] as const) {
    await assert.rejects(orcd.worker("w", more), problem);
  }
});

test("pools have regions, and one of a pool that is not there is no setting", async (t) => {
  await assert.rejects(
    startHarness(t, { pools: { box: "localhost", bux: "localhost" }, pool_regions: { bax: "de", box: "far away", bux: "ue" } }),
    {
      code: "INVALID_REQUEST",
      message:
        /there is no pool bax in pools; the region of box must be up to 63.*; the region of bux names no country that there is \(ue\)/,
    },
  );
});
