import assert from "node:assert/strict";
import { test } from "node:test";
import { TokenBytes } from "../src/llama/vocabulary.ts";

function texts(model: string, tokens: string[], kinds: number[], fallback = () => ""): string[] {
  const bytes = new TokenBytes({ model, tokens, kinds }, fallback);
  return tokens.map((_, id) => Buffer.from(bytes.of(id)).toString("utf8"));
}

test("SentencePiece: spaces, byte tokens, and nothing for specials", () => {
  assert.deepEqual(texts("llama", ["<unk>", "<s>", "▁Hello", "<0x41>", "<0x41>", "▁▁"], [2, 3, 1, 6, 1, 4]), [
    "",
    "",
    " Hello",
    "A",
    "<0x41>",
    "▁▁",
  ]);
});

test("byte-level BPE: every byte has a character", () => {
  assert.deepEqual(texts("gpt2", ["ĠHello", "Ċ", "Ã©", "<|end|>", "日本"], [1, 1, 1, 3, 4]), [" Hello", "\n", "é", "", "日本"]);
});

test("a tokenizer that is not known here is asked through the engine", () => {
  assert.deepEqual(
    texts("rwkv", ["x"], [1], () => "from the engine"),
    ["from the engine"],
  );
});
