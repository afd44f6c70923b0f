/**
 * Words for a shell on the other side: sshd hands a command to the user's login shell as one string, so each word is quoted such
 * that it arrives as it is, in POSIX shells and in fish alike (which reads a backslash between single quotes differently).
 */

const PLAIN = /^[A-Za-z0-9_./:@%+,-]+$/;

export function quoted(word: string): string {
  if (PLAIN.test(word)) return word;
  const parts = word.match(/'+|\\|[^'\\]+/g) ?? [""];
  return parts.map((part) => (part === "\\" ? '"\\\\"' : part.startsWith("'") ? `"${part}"` : `'${part}'`)).join("");
}

/** A command line of these words. Throws on a NUL, which no argument of a program can hold. */
export function commandLine(argv: readonly string[]): string {
  if (argv.some((word) => word.includes("\0"))) throw new TypeError("a NUL can't be part of an argument");
  return argv.map(quoted).join(" ");
}
