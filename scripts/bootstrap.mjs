/**
 * Runs one of the project's scripts on a machine that has only Node and npm: installs the dependencies when they are missing
 * or older than the lock file, then hands over to the Node 24 that came with them. Plain JavaScript, for any Node.
 *
 *   node scripts/bootstrap.mjs SCRIPT.ts [arguments]
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const windows = process.platform === "win32";
const node = join(root, "node_modules", "node", "bin", windows ? "node.exe" : "node");

/** npm writes what it installed into a lock file of its own; it must say the same as ours. */
function installed() {
  const wanted = read("package-lock.json");
  const have = read(join("node_modules", ".package-lock.json"));
  if (wanted === undefined || have === undefined || !existsSync(node)) return false;
  return Object.entries(wanted).every(
    ([path, { version, optional, link }]) => path === "" || link || optional || have[path]?.version === version,
  );
}

function read(path) {
  try {
    return JSON.parse(readFileSync(join(root, path), "utf8")).packages;
  } catch {
    return undefined;
  }
}

if (!installed()) await install();

/** `npm ci`, quietly: npm's own talk would drown ours; when it fails, all of it is shown. */
async function install() {
  const began = Date.now();
  const tell = () => process.stderr.write(`\rInstalling the dependencies, once: ${Math.round((Date.now() - began) / 1000)} s `);
  const ticking = process.stderr.isTTY ? setInterval(tell, 1000) : undefined;
  process.stderr.write("Installing the dependencies, once: this takes a minute or so ");
  // npm tells its scripts where it is; without it (`node scripts/bootstrap.mjs`) the one on the path is taken.
  const npm = process.env.npm_execpath;
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
  const child =
    npm === undefined ? spawn(windows ? "npm.cmd" : "npm", args, { cwd: root }) : spawn(process.execPath, [npm, ...args], { cwd: root });
  let talk = "";
  child.stdout.on("data", (part) => (talk += part));
  child.stderr.on("data", (part) => (talk += part));
  const code = await new Promise((resolve) => {
    child.on("error", (error) => {
      talk += `${error.message}\n`;
      resolve(1);
    });
    child.on("close", resolve);
  });
  clearInterval(ticking);
  process.stderr.write("\n");
  if (code === 0) return;
  process.stderr.write(`${talk}npm ci failed; the lines above say why.\n`);
  process.exit(1);
}

const [script, ...rest] = process.argv.slice(2);
if (script === undefined) {
  process.stderr.write("usage: node scripts/bootstrap.mjs SCRIPT.ts [arguments]\n");
  process.exit(2);
}
const child = spawn(node, [join(root, script), ...rest], {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, PATH: `${join(root, "node_modules", ".bin")}${windows ? ";" : ":"}${process.env.PATH}` },
});
// A terminal sends Ctrl-C to the child too: it decides how to end, and this process ends after it.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => signal === "SIGINT" || child.kill(signal));
child.on("exit", (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
