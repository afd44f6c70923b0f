/** The vector that the tiny BERT of `models/fixtures/encoder.ts` makes, by the formulas of BERT's paper: no part of any engine. */
import { ENCODER, ENCODER_SPECIALS, encoderWeights } from "../../../models/fixtures/encoder.ts";

const weights = encoderWeights();
const { width, heads, layers, epsilon } = ENCODER;

/** `words`: tokens without [CLS] and [SEP]. */
export function encoderVector(words: readonly number[], pooling: "mean" | "cls"): number[] {
  const special = (name: (typeof ENCODER_SPECIALS)[number]) => ENCODER_SPECIALS.indexOf(name);
  const tokens = [special("[CLS]"), ...words, special("[SEP]")];
  let states = tokens.map((token, position) => {
    const parts = [row("token_embd.weight", token), row("token_types.weight", 0), row("position_embd.weight", position)];
    return norm("token_embd_norm", sum(...parts));
  });
  for (let layer = 0; layer < layers; layer += 1) {
    const block = `blk.${layer}.`;
    const attended = attention(block, states).map((state) => linear(`${block}attn_output`, state));
    states = states.map((state, at) => norm(`${block}attn_output_norm`, sum(state, attended[at] ?? [])));
    const fed = states.map((state) => linear(`${block}ffn_down`, linear(`${block}ffn_up`, state).map(gelu)));
    states = states.map((state, at) => norm(`${block}layer_output_norm`, sum(state, fed[at] ?? [])));
  }
  const pooled = pooling === "cls" ? (states[0] ?? []) : sum(...states);
  const length = Math.hypot(...pooled);
  return pooled.map((value) => value / length);
}

function attention(block: string, states: readonly number[][]): number[][] {
  const size = width / heads;
  const [q, k, v] = ["attn_q", "attn_k", "attn_v"].map((part) => states.map((state) => linear(block + part, state))) as [
    number[][],
    number[][],
    number[][],
  ];
  return states.map((_, at) => {
    const out: number[] = [];
    for (let head = 0; head < heads; head += 1) {
      const part = (list: readonly number[] | undefined) => (list ?? []).slice(head * size, (head + 1) * size);
      const scores = k.map((key) => dot(part(q[at]), part(key)) / Math.sqrt(size));
      const most = Math.max(...scores);
      const shares = scores.map((score) => Math.exp(score - most));
      const total = shares.reduce((a, b) => a + b, 0);
      const values = v.map((value, i) => part(value).map((number) => (number * (shares[i] ?? 0)) / total));
      out.push(...sum(...values));
    }
    return out;
  });
}

function row(name: string, at: number): number[] {
  const { shape, values } = weights.get(name) ?? { shape: [0], values: new Float32Array() };
  const columns = shape.at(-1) ?? 0;
  return [...values.subarray(at * columns, (at + 1) * columns)];
}

function linear(name: string, state: readonly number[]): number[] {
  return row(`${name}.bias`, 0).map((bias, at) => bias + dot(row(`${name}.weight`, at), state));
}

function norm(name: string, state: readonly number[]): number[] {
  const mean = state.reduce((a, b) => a + b, 0) / state.length;
  const variance = state.reduce((a, b) => a + (b - mean) ** 2, 0) / state.length;
  const [scale, shift] = [row(`${name}.weight`, 0), row(`${name}.bias`, 0)];
  return state.map((value, i) => ((value - mean) / Math.sqrt(variance + epsilon)) * (scale[i] ?? 0) + (shift[i] ?? 0));
}

/** As llama.cpp approximates it. */
function gelu(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * x * (1 + 0.044715 * x * x)));
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((total, value, i) => total + value * (b[i] ?? 0), 0);
}

function sum(...lists: readonly (readonly number[])[]): number[] {
  return Array.from({ length: lists[0]?.length ?? 0 }, (_, i) => lists.reduce((total, list) => total + (list[i] ?? 0), 0));
}
