/**
 * Reads the HTTP/1.1 responses of one connection, one after the other, in the strict form that a worker sends. Bytes in, text
 * and ends out; holds no socket. All text of one read is handed on at once, so a burst of chunks costs one call.
 */

/** The most bytes of what ends with a line break or an empty line. */
const BYTES_MAX = { head: 16_384, trailers: 16_384, "chunk-end": 2 };
/** The most bytes of a chunk's size line; extensions are read over. */
const SIZE_LINE_BYTES_MAX = 1024;
/** 2^28 - 1: more than any chunk of a worker, and no risk to the arithmetic. */
const CHUNK_DIGITS_MAX = 7;

export interface ResponseListener {
  onHead(status: number): void;
  /** What one read brought of the body: each character is one byte. */
  onText(latin1: string): void;
  /** Exactly once, last. */
  onEnd(): void;
}

/** What a server must not send; the connection is of no use any more. */
export class ProtocolError extends Error {
  override name = "ProtocolError";
}

const [TAB, LF, CR, SPACE, SEMICOLON] = [9, 10, 13, 32, 59];

/** What is read next; `idle`: nothing is expected. */
type Part = "idle" | "head" | "size" | "chunk" | "chunk-end" | "trailers" | "sized" | "until-close" | "over";

export class ResponseReader {
  readonly #listener: ResponseListener;
  #part: Part = "idle";
  /** The beginning of a head, line or trailers that go on in the next read. */
  #rest = "";
  /** Bytes of the body or chunk that are still to come. */
  #left = 0;
  #keep_alive = true;
  #idle_ms: number | undefined;

  constructor(listener: ResponseListener) {
    this.#listener = listener;
  }

  /** A request has been sent: a response follows. */
  expect(): void {
    this.#part = "head";
  }

  /** Whether the server will take another request on this connection. */
  get keep_alive(): boolean {
    return this.#keep_alive;
  }

  /** How long the server keeps an idle connection, ms, where it said so. */
  get idle_ms(): number | undefined {
    return this.#idle_ms;
  }

  /** Takes what one read has brought. ProtocolError when it isn't HTTP/1.1, or nobody has asked for it. */
  read(bytes: Buffer, length: number): void {
    let at = 0;
    let text = "";
    while (at < length) {
      switch (this.#part) {
        case "chunk-end":
          if (this.#rest === "" && bytes[at] === CR && bytes[at + 1] === LF && at + 1 < length) {
            this.#part = "size";
            at += 2;
          } else at = this.#take(bytes, at, length);
          break;
        case "head":
        case "trailers":
          at = this.#take(bytes, at, length);
          break;
        case "size":
          at = this.#takeSize(bytes, at, length);
          break;
        case "sized":
        case "chunk": {
          const end = at + Math.min(this.#left, length - at);
          text = joined(text, bytes.toString("latin1", at, end));
          this.#left -= end - at;
          at = end;
          if (this.#left === 0) this.#part = this.#part === "chunk" ? "chunk-end" : "over";
          break;
        }
        case "until-close":
          text = joined(text, bytes.toString("latin1", at, length));
          at = length;
          break;
        case "idle":
        case "over":
          throw new ProtocolError("bytes that nobody has asked for");
      }
    }
    if (text !== "") this.#listener.onText(text);
    if (this.#part === "over") this.#end();
  }

  /** The server has closed its side. False when that cuts a response off. */
  close(): boolean {
    if (this.#part === "until-close") this.#end();
    return this.#part === "idle";
  }

  #end(): void {
    this.#part = "idle";
    this.#listener.onEnd();
  }

  /** A head, the trailers, or the line break after a chunk, which may come in pieces. Returns where they end. */
  #take(bytes: Buffer, at: number, length: number): number {
    const before = this.#rest.length;
    const text = before === 0 ? bytes.toString("latin1", at, length) : this.#rest + bytes.toString("latin1", at, length);
    const part = this.#part as "head" | "trailers" | "chunk-end";
    // Without trailers, the empty line that ends them comes at once.
    const blank = part === "chunk-end" || (part === "trailers" && text.startsWith("\r\n")) ? "\r\n" : "\r\n\r\n";
    const found = text.indexOf(blank, Math.max(0, before - blank.length + 1));
    const size = found < 0 ? text.length : found + blank.length;
    if (size > BYTES_MAX[part]) {
      throw new ProtocolError(part === "chunk-end" ? "a chunk longer than its size" : `${part} of more than ${BYTES_MAX[part]} bytes`);
    }
    this.#rest = found < 0 ? text : "";
    if (found < 0) return length;
    if (part === "head") this.#head(text.slice(0, found));
    else this.#part = part === "trailers" ? "over" : "size";
    return at + size - before;
  }

  /** The line with a chunk's size, usually whole, so it is read where it stands. Returns where it ends. */
  #takeSize(bytes: Buffer, at: number, length: number): number {
    const end = bytes.indexOf(LF, at);
    if (end >= 0 && end < length && this.#rest === "") {
      this.#size(bytes, at, end);
      return end + 1;
    }
    const stop = end >= 0 && end < length ? end + 1 : length;
    const line = this.#rest + bytes.toString("latin1", at, stop);
    if (line.length > SIZE_LINE_BYTES_MAX) throw new ProtocolError(`a chunk's size line of more than ${SIZE_LINE_BYTES_MAX} bytes`);
    this.#rest = line.endsWith("\n") ? "" : line;
    if (this.#rest === "") this.#size(Buffer.from(line, "latin1"), 0, line.length - 1);
    return stop;
  }

  /** The size line of a chunk, which ends with the LF at `end`. */
  #size(bytes: Buffer, from: number, end: number): void {
    let at = from;
    let size = 0;
    for (; at < end; at += 1) {
      const digit = hexDigit(bytes[at] as number);
      if (digit < 0) break;
      size = size * 16 + digit;
      if (at - from >= CHUNK_DIGITS_MAX) throw new ProtocolError("a chunk that is too large");
    }
    const after = bytes[at];
    if (at === from || bytes[end - 1] !== CR || (at !== end - 1 && after !== SEMICOLON && after !== SPACE && after !== TAB)) {
      throw new ProtocolError("a chunk without a size");
    }
    this.#left = size;
    this.#part = size === 0 ? "trailers" : "chunk";
  }

  /** `text`: all of the head but the empty line that ends it. */
  #head(text: string): void {
    const [status_line = "", ...lines] = text.split("\r\n");
    const match = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: |$)/.exec(status_line);
    if (match === null) throw new ProtocolError("what does not begin like HTTP/1.1");
    const status = Number(match[2]);
    // Interim answers, such as 103 Early Hints, come before the real one.
    if (status < 200) {
      if (status === 101) throw new ProtocolError("another protocol");
      return;
    }
    let length: number | undefined;
    let chunked = false;
    this.#keep_alive = match[1] === "1";
    this.#idle_ms = undefined;
    for (const line of lines) {
      const colon = line.indexOf(":");
      if (colon <= 0) throw new ProtocolError("a header without a name");
      const value = line.slice(colon + 1).trim();
      switch (line.slice(0, colon).toLowerCase()) {
        case "content-length":
          if (!/^\d{1,15}$/.test(value) || (length !== undefined && length !== Number(value))) {
            throw new ProtocolError("a content-length that is no number");
          }
          length = Number(value);
          break;
        case "transfer-encoding":
          if (value.toLowerCase() !== "chunked") throw new ProtocolError(`the transfer-encoding ${value}`);
          chunked = true;
          break;
        case "connection":
          if (/\bclose\b/i.test(value)) this.#keep_alive = false;
          break;
        case "keep-alive": {
          const seconds = /\btimeout=(\d{1,6})/.exec(value)?.[1];
          if (seconds !== undefined) this.#idle_ms = Number(seconds) * 1000;
          break;
        }
      }
    }
    if (chunked && length !== undefined) throw new ProtocolError("two lengths at once");
    this.#left = length ?? 0;
    if (status === 204 || status === 304) this.#part = "over";
    else if (chunked) this.#part = "size";
    else if (length === undefined) {
      this.#part = "until-close";
      this.#keep_alive = false;
    } else this.#part = length === 0 ? "over" : "sized";
    this.#listener.onHead(status);
  }
}

function hexDigit(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const lower = byte | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}

function joined(text: string, more: string): string {
  return text === "" ? more : text + more;
}
