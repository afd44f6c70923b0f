/** The text of the systemd unit that brings a worker back after a reboot. */
import { AFAR } from "@rbees/contracts/afar";
import { EXIT } from "@rbees/contracts/errors";
import type { Environment } from "@rbees/kit/config";
import { WANTED_BY } from "../local/systemd.ts";
import { KEY_VARIABLE } from "../orchestrator.ts";

export interface WorkerUnit {
  readonly worker_id: string;
  readonly argv: readonly string[];
  /** That of the command that starts it, from which the unit keeps what a worker reads. */
  readonly env: Environment;
  readonly log: string;
  readonly folder: string;
}

/** A worker drains for 30 s at most; then systemd makes an end. */
const STOP_S_MAX = 40;
const AGAIN_AFTER_S = 5;
/** One that can't start, such as for want of memory, is tried ever more seldom (systemd 254; older ones read over that). */
const AGAIN_AFTER_S_MAX = 300;
const AGAIN_STEPS = 8;
const KEPT = /^(RBEES_|LLORCH_|CUDA_|HIP_|ROCR_|GGML_|XDG_(CONFIG|DATA|STATE|CACHE)_HOME$|LD_LIBRARY_PATH$|PATH$|NODE_EXTRA_CA_CERTS$)/;
/** Of the command alone. */
const NOT_KEPT = new Set([KEY_VARIABLE, AFAR]);

/** Every character that an id may have is allowed in a unit's name. */
export function unitName(worker_id: string): string {
  return `rbees-worker-${worker_id}.service`;
}

/** An engine that the system kills for its memory is the worker's to start again: without `OOMPolicy` systemd would end both. */
export function unitText({ worker_id, argv, env, log, folder }: WorkerUnit): string {
  const kept = Object.entries(env).filter(([name, value]) => KEPT.test(name) && !NOT_KEPT.has(name) && value !== undefined && value !== "");
  return `# Made by rbees-pool worker spawn --systemd; rbees-pool worker stop takes it away.
[Unit]
Description=rbees worker ${worker_id}

[Service]
Type=exec
${kept.map((pair) => `Environment=${word(pair.join("="))}\n`).join("")}WorkingDirectory=${path(folder)}
ExecStart=:${argv.map(word).join(" ")}
StandardOutput=append:${path(log)}
StandardError=append:${path(log)}
KillMode=mixed
TimeoutStopSec=${STOP_S_MAX}
OOMPolicy=continue
Restart=on-failure
RestartPreventExitStatus=${EXIT.usage}
RestartSec=${AGAIN_AFTER_S}
RestartSteps=${AGAIN_STEPS}
RestartMaxDelaySec=${AGAIN_AFTER_S_MAX}

[Install]
WantedBy=${WANTED_BY}
`;
}

/**
 * One word as systemd.syntax(7) and systemd.service(5) read it: quoted, with C's escapes; a percent sign begins a specifier. Dollars
 * stay, because the colon of ExecStart switches variables off.
 */
function word(text: string): string {
  const escaped = text
    .replace(/[\\"]/g, "\\$&")
    .replaceAll("%", "%%")
    .replaceAll("\n", "\\n")
    .replaceAll("\r", "\\r")
    .replaceAll("\t", "\\t");
  return `"${escaped}"`;
}

/** The rest of a line, which is not quoted. */
function path(text: string): string {
  return text.replaceAll("%", "%%");
}
