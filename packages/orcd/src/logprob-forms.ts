/** How likely tokens were, in the forms of the APIs that say it. */
import type { ChatLogprobs, OllamaLogprob, OutputLogprob, TextLogprobs, TokenLogprob, TopLogprob } from "@rbees/contracts/logprobs";

/** The bytes that a token stands for; none of one that is no text. */
function bytesOf({ token, bytes }: TopLogprob): number[] {
  return bytes ?? [...Buffer.from(token, "utf8")];
}

function withBytes(one: TopLogprob) {
  return { token: one.token, logprob: one.logprob, bytes: bytesOf(one) };
}

function chatForm(one: TopLogprob) {
  const { bytes, ...said } = withBytes(one);
  return { ...said, bytes: bytes.length === 0 ? null : bytes };
}

export function chatLogprobs(entries: readonly TokenLogprob[]): ChatLogprobs {
  return {
    content: entries.map((entry) => ({ ...chatForm(entry), top_logprobs: entry.top_logprobs.map(chatForm) })),
    refusal: null,
  };
}

export function outputLogprobs(entries: readonly TokenLogprob[]): OutputLogprob[] {
  return entries.map((entry) => ({ ...withBytes(entry), top_logprobs: entry.top_logprobs.map(withBytes) }));
}

/** That API leaves out what was not asked for. */
export function ollamaLogprobs(entries: readonly TokenLogprob[]): OllamaLogprob[] {
  return outputLogprobs(entries).map(({ top_logprobs, ...one }) => (top_logprobs.length === 0 ? one : { ...one, top_logprobs }));
}

const HEX = 16;

/** The older form names tokens in an object: those that are no text by themselves by their bytes, so that no two have one name. */
function nameOf({ token, bytes = [] }: TopLogprob): string {
  return bytes.length === 0 ? token : `bytes:${bytes.map((byte) => `\\x${byte.toString(HEX).padStart(2, "0")}`).join("")}`;
}

const isContinuation = (byte: number | undefined) => byte !== undefined && (byte & 0xc0) === 0x80;

/** The logprobs of a completion as its text comes: it counts the characters. */
export class TextOffsets {
  /** Characters that have begun. */
  #begun = 0;

  form(entries: readonly TokenLogprob[]): TextLogprobs {
    const text_offset = entries.map((entry) => {
      const bytes = bytesOf(entry);
      // One that goes on with a character begins where that does.
      const at = isContinuation(bytes[0]) ? Math.max(0, this.#begun - 1) : this.#begun;
      this.#begun += bytes.filter((byte) => !isContinuation(byte)).length;
      return at;
    });
    return {
      tokens: entries.map(nameOf),
      token_logprobs: entries.map(({ logprob }) => logprob),
      top_logprobs: entries.map((entry) =>
        Object.fromEntries([...entry.top_logprobs, entry].map((one): [string, number] => [nameOf(one), one.logprob])),
      ),
      text_offset,
    };
  }
}
