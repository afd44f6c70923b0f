/**
 * Joins bytes that come in pieces into text that never splits a character. Bytes that can no longer become a character turn
 * into U+FFFD exactly as a decoder of the whole would have it (WHATWG Encoding, "maximal subpart").
 */
export class Utf8Joiner {
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #rest: Uint8Array = new Uint8Array(0);

  /** The characters that are complete with these bytes. */
  push(bytes: Uint8Array): string {
    const all = this.#rest.length === 0 ? bytes : concat(this.#rest, bytes);
    const whole = all.length - openBytes(all);
    this.#rest = all.slice(whole);
    return this.#decoder.decode(all.subarray(0, whole));
  }

  /** True between two characters. */
  get whole(): boolean {
    return this.#rest.length === 0;
  }

  /** The end: a character that was not completed becomes U+FFFD. */
  finish(): string {
    const rest = this.#rest;
    this.#rest = new Uint8Array(0);
    return this.#decoder.decode(rest);
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

/** How many bytes at the end could still become a character with more bytes: 0 to 3. */
function openBytes(bytes: Uint8Array): number {
  for (let length = 1; length <= 3 && length <= bytes.length; length++) {
    const lead = bytes[bytes.length - length] ?? 0;
    if (lead < 0x80) return 0;
    if (lead < 0xc0) continue;
    return couldGrow(bytes.subarray(bytes.length - length)) ? length : 0;
  }
  return 0;
}

/** Whether a lead byte with what follows it is the beginning of a character that is longer. */
function couldGrow([lead = 0, second, third]: Uint8Array): boolean {
  const length = lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
  if (length === 0) return false;
  if (second === undefined) return true;
  // Overlong forms, surrogates and what lies beyond U+10FFFF are refused by their second byte.
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  if (second < low || second > high) return false;
  return length > (third === undefined ? 2 : 3);
}
