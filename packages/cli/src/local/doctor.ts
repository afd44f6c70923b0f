/** `rbees doctor`: looks at everything that rbees needs here, and says for each what to do when it isn't right. */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { join } from "node:path";
import { NODE_MIN, nodeTooOld, VERSION } from "@rbees/kit/version";
import type { Context } from "../context.ts";
import { plural, size } from "../look.ts";
import { orchestratorAt, orchestratorUrl } from "../orchestrator.ts";
import { ofOtherVersions } from "../other-versions.ts";
import { backends } from "../pool/backends.ts";
import { catalogue, DEMO } from "../pool/catalogue.ts";
import { diskOf, memory } from "../pool/room.ts";
import { FIRST_PORT } from "../pool/spawn.ts";
import { readWorkers } from "../pool/worker-record.ts";
import type { Check } from "./check.ts";
import { certificates } from "./doctor-certificates.ts";
import { isPortFree } from "./ports.ts";
import { isAlive } from "./process-identity.ts";
import { HOST, isOrchestrator } from "./up.ts";
import { ORCHESTRATOR_PORT, readUp } from "./up-record.ts";

export interface Diagnosis {
  ok: boolean;
  checks: Check[];
}

const DISK_BYTES_MIN = 500_000_000;
const DISK_BYTES_GOOD = 5_000_000_000;
const MEMORY_BYTES_MIN = 300_000_000;
const MEMORY_BYTES_GOOD = 1_500_000_000;
const PROGRAM_MS_MAX = 20_000;
const CALL_MS_MAX = 3000;

export async function diagnose(context: Context): Promise<Diagnosis> {
  const { home, programs } = context;
  const parts = await Promise.all([
    node(),
    folder("configuration folder", home.config),
    folder("data folder", home.data),
    folder("state folder", home.state),
    models(context),
    disk(home.data),
    memoryCheck(),
    cpu(),
    engine(context),
    program("worker program", programs.workerd),
    program("orchestrator program", programs.orcd),
    settings(context),
    upRecord(context),
    portCheck(context, ORCHESTRATOR_PORT),
    portCheck(context, FIRST_PORT),
    orchestrator(context),
    ended(context),
    certificates(context),
  ]);
  const checks = parts.flat();
  return { ok: checks.every(({ level }) => level !== "fail"), checks };
}

function node(): Check {
  const old = nodeTooOld(process.versions.node);
  const found = process.versions.node;
  return old === undefined
    ? { name: "Node.js", level: "ok", found }
    : { name: "Node.js", level: "fail", found, next: `install Node.js ${NODE_MIN} or newer` };
}

async function folder(name: string, path: string): Promise<Check> {
  const probe = join(path, `.doctor-${randomUUID()}`);
  try {
    await mkdir(path, { recursive: true });
    await writeFile(probe, "");
    await rm(probe);
    return { name, level: "ok", found: path };
  } catch (error) {
    return { name, level: "fail", found: (error as Error).message, next: "make it writable, or set RBEES_HOME to a folder that is" };
  }
}

async function models(context: Context): Promise<Check[]> {
  const notices: string[] = [];
  try {
    const known = await catalogue({ ...context, io: { ...context.io, say: (line) => notices.push(line) } });
    const gone = known.filter(({ present, path, name }) => !present && path !== null && name !== DEMO);
    const demo = known.find(({ name }) => name === DEMO);
    const here = known.filter(({ present }) => present).map(({ name }) => name);
    const listed: Check = { name: "catalogue", level: "ok", found: here.length === 0 ? "no models here" : here.join(", ") };
    const check: Check =
      notices.length > 0
        ? { ...listed, level: "warn", found: notices.join(" "), next: "register your models again: rbees-pool models register" }
        : gone.length > 0
          ? {
              ...listed,
              level: "warn",
              found: `files gone: ${gone.map(({ name }) => name).join(", ")}`,
              next: "rbees-pool models unregister, or put the files back",
            }
          : listed;
    if (demo?.present) return [check];
    return [
      check,
      {
        name: "demo model",
        level: "warn",
        found: `missing or damaged: ${demo?.path}`,
        next: "reinstall rbees, or use another model: rbees up --model",
      },
    ];
  } catch (error) {
    return [{ name: "catalogue", level: "fail", found: (error as Error).message, next: "make the data folder readable and writable" }];
  }
}

async function disk(path: string): Promise<Check> {
  try {
    const { available_bytes } = await diskOf(path);
    const level = available_bytes < DISK_BYTES_MIN ? "fail" : available_bytes < DISK_BYTES_GOOD ? "warn" : "ok";
    return {
      name: "disk",
      level,
      found: `${size(available_bytes)} free`,
      ...(level === "ok" ? {} : { next: "free some, or set RBEES_HOME to a larger disk" }),
    };
  } catch (error) {
    return { name: "disk", level: "warn", found: (error as Error).message };
  }
}

function memoryCheck(): Check {
  const { available_bytes, total_bytes } = memory();
  const level = available_bytes < MEMORY_BYTES_MIN ? "fail" : available_bytes < MEMORY_BYTES_GOOD ? "warn" : "ok";
  const found = `${size(available_bytes)} free of ${size(total_bytes)}`;
  return { name: "memory", level, found, ...(level === "ok" ? {} : { next: "only small models will fit: end other programs" }) };
}

async function cpu(): Promise<Check> {
  const found = `${plural(cpus().length, "core")}, ${cpus()[0]?.model.trim() || process.arch}`;
  const flags = process.arch === "x64" ? await readFile("/proc/cpuinfo", "utf8").catch(() => "") : "";
  if (flags === "" || /\bavx2\b/.test(flags)) return { name: "processor", level: "ok", found };
  return { name: "processor", level: "warn", found: `${found}, without AVX2`, next: "it works, slowly: use small models" };
}

async function engine(context: Context): Promise<Check> {
  const all = await backends(context);
  const works = all.filter((one) => one.works).map(({ backend }) => backend);
  if (works.length > 0) return { name: "engine", level: "ok", found: works.join(", ") };
  const why = all.find(({ backend }) => backend === "cpu")?.reason ?? "no backend works";
  return { name: "engine", level: "fail", found: why, next: "install again without --omit=optional" };
}

async function program(name: string, argv: readonly string[]): Promise<Check> {
  const [command = "", ...args] = argv;
  const file = args.at(-1) ?? command;
  if (!existsSync(file)) return { name, level: "fail", found: `there is no ${file}`, next: "install rbees again" };
  const { execa } = await import("execa");
  const { failed, stdout, stderr, timedOut } = await execa(command, [...args, "--version"], { reject: false, timeout: PROGRAM_MS_MAX });
  if (!failed) {
    const found = stdout.trim().split(/\s+/).at(-1) ?? "";
    if (found === VERSION) return { name, level: "ok", found };
    return { name, level: "warn", found: `${found}, but this is ${VERSION}`, next: "install one version of all programs" };
  }
  const why = timedOut
    ? `no answer within ${PROGRAM_MS_MAX / 1000} s`
    : (stderr
        .trim()
        .split("\n")
        .find((line) => line.trim() !== "") ?? "it can't be started");
  return { name, level: "fail", found: why, next: "install rbees again" };
}

/** As the orchestrator would read them: from config.toml and the environment. */
async function settings({ home, programs, env }: Context): Promise<Check> {
  const name = "settings";
  const file = join(home.config, "config.toml");
  const [command = "", ...args] = programs.orcd;
  const { execa } = await import("execa");
  const { failed, stderr } = await execa(command, [...args, "config"], { reject: false, timeout: PROGRAM_MS_MAX, env, extendEnv: false });
  if (!failed) return { name, level: "ok", found: existsSync(file) ? file : "no config.toml" };
  const problems = stderr.split("\n").flatMap((line) => /^ {2}(\S.*)$/.exec(line)?.[1] ?? []);
  const found = problems.length === 0 ? (stderr.trim().split("\n", 1)[0] ?? "") : problems.join("; ");
  return { name, level: "fail", found, next: "mend what is named; `rbees-orcd config` says what holds" };
}

async function upRecord({ home }: Context): Promise<Check[]> {
  return readUp(home).then(
    () => [],
    (error: Error) => [{ name: "what is up", level: "fail", found: error.message, next: "end it by hand, and remove that file" }],
  );
}

async function portCheck(context: Context, port: number): Promise<Check> {
  const name = `port ${port}`;
  if (await isPortFree(HOST, port)) return { name, level: "ok", found: "free" };
  const up = await readUp(context.home).catch(() => undefined);
  if (up?.orchestrator?.port === port && (await isAlive(up.orchestrator.process))) return { name, level: "ok", found: "our orchestrator" };
  for (const record of await readWorkers(context.home)) {
    if (record.port === port && (await isAlive(record.process))) return { name, level: "ok", found: `our worker ${record.worker_id}` };
  }
  if (await isOrchestrator(context, `http://${HOST}:${port}`))
    return { name, level: "ok", found: "an orchestrator that `rbees up` did not start" };
  const flag = port === ORCHESTRATOR_PORT ? `rbees up --port ${port + 1}` : "nothing: workers take the next free port";
  return { name, level: "warn", found: "taken by another program", next: flag };
}

async function orchestrator(context: Context): Promise<Check[]> {
  const name = "orchestrator";
  try {
    const client = orchestratorAt(context, await orchestratorUrl(context), { call_ms_max: CALL_MS_MAX });
    const list = await client.call("listWorkers", {});
    const { workers, orchestrator_version } = list;
    const ready = workers.filter(({ status }) => status === "ready");
    const answers: Check = { name, level: "ok", found: client.url };
    if (ready.length === 0 && workers.length > 0) {
      const found = workers.map(({ worker_id, model, status }) => `${worker_id} (${model}, ${status})`).join(", ");
      return [
        answers,
        { name: "workers", level: "warn", found, next: "none takes new jobs: rbees-pool worker restart ID where one is drained" },
      ];
    }
    if (ready.length === 0)
      return [answers, { name: "workers", level: "warn", found: "none is registered", next: "rbees-pool worker spawn cpu --model demo" }];
    const others = ofOtherVersions(list);
    const found = ready.map(
      (worker) => `${worker.worker_id} (${worker.model}${others.includes(worker) ? `, rbees ${worker.version}` : ""})`,
    );
    const there: Check = { name: "workers", level: "ok", found: found.join(", ") };
    if (others.length === 0) return [answers, there];
    const next = `the orchestrator is rbees ${orchestrator_version}: upgrade what is older, workers before the orchestrator (docs/upgrade.md)`;
    return [answers, { ...there, level: "warn", next }];
  } catch (error) {
    return [{ name, level: "warn", found: (error as Error).message, next: "rbees up" }];
  }
}

/** Workers of this machine whose process is gone though nobody stopped them: the orchestrator may not have missed them yet. */
async function ended({ home }: Context): Promise<Check[]> {
  const records = await readWorkers(home);
  const gone = (await Promise.all(records.map(async (record) => ((await isAlive(record.process)) ? [] : [record])))).flat();
  return gone.map(({ worker_id, log }) => ({
    name: "worker that ended",
    level: "warn",
    found: `${worker_id}: its process is gone; its log is ${log}`,
    next: `rbees-pool worker restart ${worker_id}, or stop it for good: rbees-pool worker stop ${worker_id}`,
  }));
}
