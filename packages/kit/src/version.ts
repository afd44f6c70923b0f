/** The one version of all rbees programs; a test holds it equal to package.json. */
export const VERSION = "0.1.0";

/** Oldest Node.js that runs the programs: type stripping and better-sqlite3's prebuilt binary need it. */
export const NODE_MIN = "22.18.0";

/** A sentence for people on an older Node.js, or undefined when this one will do. */
export function nodeTooOld(running: string): string | undefined {
  const [major = 0, minor = 0] = running.split(".").map(Number);
  const [needMajor = 0, needMinor = 0] = NODE_MIN.split(".").map(Number);
  if (major > needMajor || (major === needMajor && minor >= needMinor)) return undefined;
  return `rbees needs Node.js ${NODE_MIN} or newer; this is ${running}. Install Node.js 24 LTS and try again.`;
}
