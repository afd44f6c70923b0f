/** What computes may be silent for long: before an answer there is a prompt, or a queue. Node's own `fetch` gives up after five minutes. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { RunRequest } from "../src/engine.ts";
import { Client } from "../src/llama-server/client.ts";
import { Upstream } from "../src/openai/upstream.ts";

/** How both libraries of `fetch` count time: a second is over after two of these. */
const TICK_MS = 499;

test("an answer whose server says nothing for longer than `fetch` would wait is waited for", async (t) => {
  const { setTimeout } = globalThis;
  t.after(() => Object.assign(globalThis, { setTimeout }));
  // Five minutes are over in half a second.
  globalThis.setTimeout = ((act: () => void, ms?: number) => setTimeout(act, ms === TICK_MS ? 0 : ms)) as typeof setTimeout;
  const silent: ServerResponse[] = [];
  const server = createServer((request, response) => {
    request.resume();
    silent.push(response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close().closeAllConnections());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  const request = {
    prompt: "hi",
    raw: true,
    max_tokens: 9,
    temperature: 0,
    seed: 1,
    stop: [],
    continue_tokens: [],
  } as unknown as RunRequest;
  const { signal } = new AbortController();
  const answers = [
    new Upstream({ url: `${url}/v1`, model: "m", features: "none" }).begin(request, 9, signal),
    new Client({ url, key: "" }, []).complete(request, [1], 9, 1, signal),
  ];
  await assert.rejects(fetch(url), ({ cause }: Error) => /Headers Timeout/.test(String(cause)), "the clock of this test");
  assert.equal(silent.length, 3);
  for (const response of silent) response.end();
  for (const answer of answers) {
    for await (const said of await answer) assert.fail(JSON.stringify(said));
  }
});
