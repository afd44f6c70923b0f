import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseSlot, PREFIX_WORTH_TOKENS, type SlotState } from "../src/slots.ts";

const prompt = Array.from({ length: 100 }, (_, i) => i);
const empty: SlotState = { busy: false, kept: [], reusable: 1e9 };
const busy: SlotState = { ...empty, busy: true };
const keeping = (tokens: number): SlotState => ({ ...empty, kept: [...prompt.slice(0, tokens), 999] });

test("the lowest free slot is taken, so that busy slots are neighbours", () => {
  assert.deepEqual(chooseSlot([busy, empty, empty], prompt), { slot: 1, cached: 0 });
});

test("a slot that keeps a good part of the prompt is worth a hole", () => {
  assert.deepEqual(chooseSlot([empty, keeping(50), keeping(80)], prompt), { slot: 2, cached: 80 });
  assert.deepEqual(chooseSlot([empty, keeping(PREFIX_WORTH_TOKENS - 1)], prompt), { slot: 0, cached: 0 });
});

test("the last token of a prompt is always computed", () => {
  assert.deepEqual(chooseSlot([{ ...empty, kept: prompt }], prompt), { slot: 0, cached: 99 });
});

test("only what may be used again is, in whole steps", () => {
  assert.deepEqual(chooseSlot([{ ...empty, kept: prompt, reusable: 70 }], prompt, 32), { slot: 0, cached: 64 });
});

test("no free slot, no choice", () => {
  assert.equal(chooseSlot([busy, busy], prompt), undefined);
});
