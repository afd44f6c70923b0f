/** The real core on simulated machines. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fleetOf } from "../src/fleet.ts";
import { POLICIES } from "../src/policies.ts";
import { replay, replayed } from "../src/replay.ts";
import { jain, quantile, reportOf } from "../src/report.ts";
import { dealtOut, type Request } from "../src/trace.ts";

const SLO = { ttft_ms: 2000, tpot_ms: 100 };

/** Conversations that come back with a longer prompt each time; always the same ones. */
function conversations(count: number, every_ms: number): Request[] {
  let state = 1;
  const below = (limit: number) => {
    state = (state * 48_271) % 0x7fffffff;
    return state % limit;
  };
  const open: number[][] = [];
  let block = 0;
  return Array.from({ length: count }, (_, at): Request => {
    const again = open.length > 20 && below(2) === 0 ? (open[below(open.length)] as number[]) : [];
    const prefix = [...again, ...Array.from({ length: 1 + below(8) }, () => ++block)];
    open.push(prefix);
    return { at_ms: at * every_ms, prompt_tokens: prefix.length * 512 - below(500), output_tokens: 1 + below(300), prefix };
  });
}

test("every request ends exactly once, after its first token, under every policy", () => {
  const requests = conversations(400, 150);
  for (const policy of POLICIES) {
    const { served, workers } = replayed(requests, fleetOf({ speeds: [1, 0.5, 0.25], slots: 4 }), policy);
    assert.equal(served.length, requests.length);
    for (const { request, sent_ms, first_ms, ended_ms, tokens_out } of served) {
      assert.ok(request.at_ms <= sent_ms && sent_ms < first_ms && first_ms <= ended_ms && ended_ms < Number.POSITIVE_INFINITY);
      assert.equal(tokens_out, request.output_tokens);
    }
    const asked = requests.reduce((sum, { prompt_tokens, output_tokens }) => sum + prompt_tokens + output_tokens, 0);
    const done = workers.reduce((sum, { cached_tokens, computed_tokens }) => sum + cached_tokens + computed_tokens, 0);
    assert.equal(done, asked, "each token was computed or kept, once");
    assert.ok(workers.every(({ busy_ms }) => busy_ms <= Math.max(...served.map(({ ended_ms }) => ended_ms)) + 1e-6));
  }
});

test("the same trace gives the same result", () => {
  const once = () => replayed(conversations(300, 100), fleetOf({ speeds: [1, 0.5], slots: 8 }), "eta");
  assert.deepEqual(reportOf(once(), SLO), reportOf(once(), SLO));
  assert.deepEqual(once().served, once().served);
});

test("a replay tells how far it is", () => {
  const told = [...replay(conversations(1000, 200), fleetOf({ workers: 4 }), "eta")];
  assert.ok(told.length >= 4 && told.every((ended, at) => ended > (told[at - 1] ?? 0) && ended <= 1000), `${told}`);
});

test("on machines of unequal speed the default policy answers much sooner than round-robin", () => {
  const requests = conversations(2000, 300);
  const machines = fleetOf({ speeds: [1, 0.5, 0.25, 0.25] });
  const [eta, round_robin] = (["eta", "round-robin"] as const).map((policy) => reportOf(replayed(requests, machines, policy), SLO));
  assert.ok(eta !== undefined && round_robin !== undefined);
  assert.ok(eta.ttft_s.mean * 5 < round_robin.ttft_s.mean, `${eta.ttft_s.mean} s against ${round_robin.ttft_s.mean} s`);
  assert.ok(eta.goodput_percent > round_robin.goodput_percent);
});

test("a second machine halves nothing by itself, but the queue is gone", () => {
  const requests = conversations(200, 400);
  const [one, two] = [1, 2].map((workers) => reportOf(replayed(requests, fleetOf({ workers, slots: 2 }), "eta"), SLO));
  assert.ok(one !== undefined && two !== undefined);
  assert.ok(two.queue_s.p99 < one.queue_s.p99 && two.ttft_s.mean < one.ttft_s.mean);
  assert.equal(one.fairness, 1);
});

test("tenants that wait at the same time get the same, however unequal what they ask for", () => {
  const requests = dealtOut(conversations(600, 60), 4);
  const sent = Map.groupBy(requests, ({ tenant }) => tenant);
  assert.deepEqual([...sent.keys()].sort(), ["t1", "t2", "t3", "t4"]);
  assert.equal(sent.get("t1")?.length, 300);
  const { served, tenants } = replayed(requests, fleetOf({ speeds: [1, 0.5], slots: 4 }), "eta");
  assert.ok(served.every(({ ended_ms }) => ended_ms < Number.POSITIVE_INFINITY));
  assert.equal(tenants.count, 4);
  assert.ok(tenants.gap_tokens > 0 && tenants.gap_tokens <= tenants.bound_tokens, JSON.stringify(tenants));
  const wait = (tenant: string) => {
    const waits = served.filter(({ request }) => request.tenant === tenant).map(({ request, sent_ms }) => sent_ms - request.at_ms);
    return waits.reduce((sum, ms) => sum + ms, 0) / waits.length;
  };
  assert.ok(2 * wait("t4") < wait("t1"), "who asks for little does not wait behind who asks for much");
});

test("a report says what was measured", () => {
  const request = { at_ms: 1000, prompt_tokens: 1000, output_tokens: 11, prefix: [] };
  const [machine] = fleetOf({ workers: 1 });
  assert.ok(machine !== undefined);
  const report = reportOf(
    {
      policy: "eta",
      served: [
        { request, sent_ms: 1500, first_ms: 3000, ended_ms: 4000, tokens_out: 11 },
        { request, sent_ms: 1000, first_ms: 3500, ended_ms: 5500, tokens_out: 11 },
      ],
      tenants: { count: 1, gap_tokens: 0, bound_tokens: 1000 },
      workers: [{ machine, busy_ms: 1375, cached_tokens: 500, computed_tokens: 1522 }],
    },
    SLO,
  );
  assert.deepEqual(report, {
    policy: "eta",
    requests: 2,
    finished: 2,
    ttft_s: { mean: 2.25, p50: 2, p90: 2.5, p99: 2.5 },
    tpot_ms: { mean: 150, p99: 200 },
    hit_percent: 25,
    goodput_percent: 50,
    busy_percent: { min: 25, max: 25 },
    queue_s: { p99: 0.5 },
    fairness: 1,
    tenants: { count: 1, gap_tokens: 0, bound_tokens: 1000 },
    makespan_s: 5.5,
  });
});

test("quantiles are values that occurred; equal loads are fair", () => {
  assert.deepEqual([quantile([1, 2, 3, 4], 0.5), quantile([1, 2, 3, 4], 0.99), quantile([], 0.5)], [2, 4, 0]);
  assert.deepEqual([jain([3, 3]), jain([1, 0]), jain([0, 0])], [1, 0.5, 1]);
});
