/** What is measured, each started afresh: no relay at all, the bare relay, nginx, and the orchestrator with everything on. */
import type { ChildProcess } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findPrograms } from "../../packages/cli/src/programs.ts";
import { found, freePort, type Processes } from "../processes.ts";
import { sleep } from "./clock.ts";
import type { Harness } from "./harness.ts";
import type { Target, Trust } from "./messages.ts";
import { type TrustMode, trusted } from "./trusted.ts";

export const TARGET_NAMES = ["direct", "bare", "nginx", "rbees-orcd"] as const;
export type TargetName = (typeof TARGET_NAMES)[number];

export interface Started {
  readonly target: Target;
  /** 0 when there is no relay. */
  readonly pid: number;
  stop(): Promise<void>;
}

export interface StartOptions {
  /** Flags for the Node processes. */
  node_flags?: readonly string[];
  /** Flags for the orchestrator. */
  orcd_flags?: readonly string[];
  /** What the orchestrator asks of its callers; nothing, where it is not said. */
  trust?: TrustMode;
  /** Streams at once; the paced worker registers with as many slots. */
  streams?: number;
  /** A command that runs the program, such as a tracer that stays out of its way. */
  wrapped_in?: readonly string[];
  onLine?: (line: string) => void;
}

const SLOTS_PER_WORKER_MAX = 256;
const START_MS_MAX = 20_000;

export function nginxFound(): boolean {
  return found("nginx");
}

let starts = 0;

export function start(name: TargetName, processes: Processes, harness: Harness, options: StartOptions = {}): Promise<Started> {
  starts += 1;
  switch (name) {
    case "direct":
      return Promise.resolve({ target: { port: harness.worker_port, path: "/execute", body: "execute" }, pid: 0, stop: async () => {} });
    case "bare":
      return startBare(processes, harness, options);
    case "nginx":
      return startNginx(processes, harness);
    case "rbees-orcd":
      return startOrcd(processes, harness, options);
  }
}

async function startBare(
  processes: Processes,
  harness: Harness,
  { node_flags = [], wrapped_in = [], onLine }: StartOptions,
): Promise<Started> {
  const file = fileURLToPath(new URL("bare-relay.ts", import.meta.url));
  const command = [...wrapped_in, process.execPath, ...node_flags, file, `http://127.0.0.1:${harness.worker_port}`];
  const { child, match } = await untilLine(processes, command, /^listening (\d+)$/, onLine);
  return {
    target: { port: Number(match[1]), path: "/execute", body: "execute" },
    pid: child.pid as number,
    stop: () => processes.stop(child),
  };
}

async function startOrcd(processes: Processes, harness: Harness, options: StartOptions): Promise<Started> {
  const { node_flags = [], wrapped_in = [], orcd_flags = [], streams = SLOTS_PER_WORKER_MAX, trust: mode, onLine } = options;
  const data_dir = join(processes.folder, `orcd-${starts}`);
  // As `rbees up` starts it.
  const program = findPrograms(new URL("../../packages/cli/src/rbees.ts", import.meta.url).href).orcd;
  let trust: Trust | undefined;
  let trust_flags: readonly string[] = [];
  if (mode !== undefined) ({ trust, flags: trust_flags } = trusted(mode, program, data_dir));
  const command = [
    ...wrapped_in,
    ...program.slice(0, -1),
    ...node_flags,
    ...program.slice(-1),
    "--port",
    "0",
    "--data-dir",
    data_dir,
    "--log-format",
    "json",
    ...trust_flags,
    ...orcd_flags,
  ];
  const { child, match } = await untilLine(processes, command, /"url":"(https?:\/\/127\.0\.0\.1:(\d+))".*"ready"/, onLine);
  await harness.register({
    url: match[1] as string,
    workers: Math.ceil(streams / SLOTS_PER_WORKER_MAX),
    slots: Math.min(streams, SLOTS_PER_WORKER_MAX),
    trust,
  });
  return {
    target: { port: Number(match[2]), path: "/v2/tasks", body: "task", trust },
    pid: child.pid as number,
    async stop() {
      harness.forget();
      await processes.stop(child);
    },
  };
}

async function startNginx(processes: Processes, harness: Harness): Promise<Started> {
  const port = await freePort();
  const folder = join(processes.folder, `nginx-${starts}`);
  mkdirSync(folder);
  const config = join(folder, "nginx.conf");
  writeFileSync(config, nginxConfig(port, harness.worker_port, folder));
  const said: string[] = [];
  // One process and no master, so that its CPU is all of it.
  const child = processes.spawn(["nginx", "-e", join(folder, "error.log"), "-p", folder, "-c", config], (line) => said.push(line));
  const deadline = performance.now() + START_MS_MAX;
  while (!(await answers(port))) {
    if (child.exitCode !== null || performance.now() > deadline) throw new Error(`nginx did not start: ${said.join(" ")}`);
    await sleep(20);
  }
  return { target: { port, path: "/execute", body: "execute" }, pid: child.pid as number, stop: () => processes.stop(child) };
}

function nginxConfig(port: number, upstream: number, folder: string): string {
  const scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `  ${name}_temp_path ${folder}/${name};`).join("\n");
  return `daemon off;
master_process off;
pid ${folder}/nginx.pid;
events { worker_connections 8192; }
http {
  access_log off;
${scratch}
  keepalive_requests 100000000;
  upstream worker {
    server 127.0.0.1:${upstream};
    keepalive 4096;
    keepalive_requests 100000000;
  }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    tcp_nodelay on;
    location = /ready { return 200 "ready"; }
    location / {
      proxy_pass http://worker;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }
  }
}
`;
}

async function answers(port: number): Promise<boolean> {
  try {
    await (await fetch(`http://127.0.0.1:${port}/ready`)).text();
    return true;
  } catch {
    return false;
  }
}

/** Starts a program and waits for the line that says where it listens. */
function untilLine(
  processes: Processes,
  command: readonly string[],
  ready: RegExp,
  onLine: ((line: string) => void) | undefined,
): Promise<{ child: ChildProcess; match: RegExpExecArray }> {
  return new Promise((resolve, reject) => {
    const said: string[] = [];
    const child = processes.spawn(command, (line) => {
      onLine?.(line);
      if (said.length < 20) said.push(line);
      const match = ready.exec(line);
      if (match !== null) {
        clearTimeout(late);
        resolve({ child, match });
      }
    });
    const fail = () => {
      clearTimeout(late);
      reject(new Error(`${command.join(" ")} did not start:\n${said.join("\n")}`));
    };
    const late = setTimeout(fail, START_MS_MAX);
    child.once("exit", fail);
  });
}
