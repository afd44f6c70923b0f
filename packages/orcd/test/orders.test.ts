/** Changes on their way to the store's thread come out as they went in, however often their shapes were told before. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { OrderReader, OrderWriter } from "../src/store/orders.ts";
import type { Change } from "../src/store/port.ts";

const usage = (id: string): Change => ({ table: "usage", add: { day: 1, level: "tenant", id, tokens: 2 } });
const model = (name: string): Change => ({ table: "models", insert: { model: name, first_seen_at_ms: 1 } });
const line = (id: string): Change => ({
  ...{ table: "batch_lines", insert: { id, batch_id: "b", line: 1, custom_id: "c", request: "{}" } },
  subject: { tenant: "t", name: null },
});

test("a shape is told in words once, and by its number from then on, over messages", () => {
  const [writer, reader] = [new OrderWriter(), new OrderReader()];
  const first = writer.write([usage("a"), model("m"), usage("b")]);
  const second = writer.write([model("n"), line("l"), usage("c")]);
  assert.equal(first.match(/insert models/g)?.length, 1);
  assert.doesNotMatch(second, /insert models|usage/);
  const shapes = [...reader.read(first), ...reader.read(second)].map(([shape, values]) => [shape, values]);
  assert.deepEqual(shapes, [
    ["usage", [1, "tenant", "a", 2]],
    ["insert models model,first_seen_at_ms", ["m", 1]],
    ["usage", [1, "tenant", "b", 2]],
    ["insert models model,first_seen_at_ms", ["n", 1]],
    ["insert batch_lines id,batch_id,line,custom_id,request", ["l", "b", 1, "c", "{}"]],
    ["usage", [1, "tenant", "c", 2]],
  ]);
});

test("whose content it is goes along where the row does not say, and entries of the audit trail whole", () => {
  const [writer, reader] = [new OrderWriter(), new OrderReader()];
  const append = { at_ms: 1, kind: "k", fields: { n: 1 } };
  const orders = reader.read(writer.write([line("l"), { table: "audit", append }, { table: "audit", sign: { at_ms: 2 } }]));
  assert.deepEqual(orders[0]?.[2], { tenant: "t", name: null });
  assert.deepEqual(orders.slice(1), [[append], [{ sign_at_ms: 2 }]]);
});

test("a reader that has missed a message says so, and takes no statement for another", () => {
  const writer = new OrderWriter();
  writer.write([usage("a")]);
  const second = writer.write([usage("b")]);
  assert.throws(() => new OrderReader().read(second), /no shape has the number 0/);
});
