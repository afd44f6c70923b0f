/** Bytes as strings: what goes to sockets and lies in logs has one character a byte. */

/** The string's UTF-8 bytes, each as one character. */
export function latin1Of(text: string): string {
  return isAscii(text) ? text : Buffer.from(text, "utf8").toString("latin1");
}

/** The text whose UTF-8 bytes are the characters. */
export function utf8Of(latin1: string): string {
  return isAscii(latin1) ? latin1 : Buffer.from(latin1, "latin1").toString("utf8");
}

function isAscii(text: string): boolean {
  return /^[\0-\x7f]*$/.test(text);
}
