/** What this host can generate on, and why not on the rest. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { RbeesError } from "@rbees/contracts/errors";
import type { PoolBackend } from "@rbees/contracts/pool";
import { BACKENDS, type EngineName } from "@rbees/contracts/sets";
import type { Backend } from "@rbees/contracts/worker";
import type { World } from "../context.ts";

const PROBE_MS_MAX = 5000;
const MIB = 1_048_576;

export interface HostKind {
  platform: NodeJS.Platform;
  arch: string;
}

export async function backends(world: World, host: HostKind = process): Promise<PoolBackend[]> {
  return Promise.all([cpu(world, host), cuda(world, host), metal(world, host)]);
}

function cpu({ programs }: World, host: HostKind): PoolBackend {
  const engine = enginePackage(host, host.platform === "darwin" && host.arch === "arm64" ? "-metal" : "");
  const works = hasBinaries(programs.workerPackage(engine));
  return { backend: "cpu", works, reason: works ? "always there" : missing(engine), devices: [] };
}

async function cuda({ programs, env }: World, host: HostKind): Promise<PoolBackend> {
  const gpus = await nvidiaGpus(env);
  const engine = enginePackage(host, "-cuda");
  const installed = hasBinaries(programs.workerPackage(engine));
  const works = typeof gpus !== "string" && gpus.length > 0 && installed;
  const reason =
    typeof gpus === "string"
      ? gpus
      : gpus.length === 0
        ? "nvidia-smi sees no GPU"
        : installed
          ? "nvidia-smi sees the GPU"
          : missing(engine);
  return { backend: "cuda", works, reason, devices: typeof gpus === "string" ? [] : gpus };
}

function metal({ programs }: World, host: HostKind): PoolBackend {
  if (host.platform !== "darwin" || host.arch !== "arm64") {
    return { backend: "metal", works: false, reason: "needs a Mac with Apple silicon", devices: [] };
  }
  const engine = enginePackage(host, "-metal");
  const works = hasBinaries(programs.workerPackage(engine));
  const device = { index: 0, name: "Apple GPU", memory_bytes: null };
  return { backend: "metal", works, reason: works ? "Apple silicon" : missing(engine), devices: [device] };
}

/** The engine's prebuilt binaries come as one package for each platform. */
export function enginePackage({ platform, arch }: HostKind, variant: string): string {
  const system = platform === "darwin" ? "mac" : platform === "win32" ? "win" : "linux";
  return `@node-llama-cpp/${system}-${arch === "arm" ? "armv7l" : arch}${variant}`;
}

function hasBinaries(folder: string | undefined): boolean {
  return folder !== undefined && existsSync(join(folder, "bins"));
}

function missing(engine: string): string {
  return `the engine package ${engine} is not installed`;
}

async function nvidiaGpus(env: World["env"]): Promise<PoolBackend["devices"] | string> {
  const { execa } = await import("execa");
  const query = ["--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"];
  const { failed, code, timedOut, stdout, stderr } = await execa("nvidia-smi", query, { reject: false, timeout: PROBE_MS_MAX, env });
  if (code === "ENOENT") return "no NVIDIA driver here (nvidia-smi is not found)";
  if (timedOut) return `nvidia-smi did not answer within ${PROBE_MS_MAX / 1000} s`;
  if (failed) return `nvidia-smi failed: ${(stderr || stdout).trim().split("\n")[0] ?? ""}`;
  return parseNvidiaSmi(stdout);
}

/** Lines such as `0, NVIDIA H200, 143771, 143008`; a GPU that shares the host's memory says `[N/A]`. */
export function parseNvidiaSmi(stdout: string): PoolBackend["devices"] {
  return stdout
    .split("\n")
    .map((line) => line.split(",").map((cell) => cell.trim()))
    .filter((cells) => cells.length === 4 && /^\d+$/.test(cells[0] ?? ""))
    .map(([index, name = "", total, free]) => ({ index: Number(index), name, memory_bytes: bytesOf(total), free_bytes: bytesOf(free) }));
}

function bytesOf(mib: string | undefined): number | null {
  return /^\d+$/.test(mib ?? "") ? Number(mib) * MIB : null;
}

/** The backend of this name, when it works here; else a refusal that lists those that do. */
export async function requireBackend(world: World, given: string, gpu: number | undefined, engine?: EngineName): Promise<Backend> {
  const known = BACKENDS.find((name) => name === given);
  // A program of the user's was built for what they have.
  if (known !== undefined && engine === "llama-server") return known;
  const all = await backends(world);
  const working = all.filter(({ works }) => works).map(({ backend }) => backend);
  const here = working.length === 0 ? "No backend works here" : `Here ${working.length === 1 ? "works" : "work"}: ${working.join(", ")}`;
  if (known === undefined) throw new RbeesError("INVALID_REQUEST", `There is no backend "${given}", only ${BACKENDS.join(", ")}. ${here}.`);
  const found = all.find(({ backend }) => backend === known);
  if (!found?.works) throw new RbeesError("CONFLICT", `${known} does not work on this host: ${found?.reason}. ${here}.`);
  if (gpu !== undefined && known === "cuda" && !found.devices.some(({ index }) => index === gpu)) {
    throw new RbeesError(
      "INVALID_REQUEST",
      `There is no GPU ${gpu}; here are: ${found.devices.map(({ index, name }) => `${index} (${name})`).join(", ")}.`,
    );
  }
  return known;
}
