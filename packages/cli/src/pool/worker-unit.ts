/** The text of the systemd unit that brings a worker back after a reboot. */
import type { Environment } from "@rbees/kit/config";
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
const KEPT = /^(RBEES_|LLORCH_|CUDA_|GGML_|XDG_(CONFIG|DATA|STATE|CACHE)_HOME$|LD_LIBRARY_PATH$)/;

/** Every character that an id may have is allowed in a unit's name. */
export function unitName(worker_id: string): string {
  return `rbees-worker-${worker_id}.service`;
}

export function unitText({ worker_id, argv, env, log, folder }: WorkerUnit): string {
  const kept = Object.entries(env).filter(
    ([name, value]) => KEPT.test(name) && name !== KEY_VARIABLE && value !== undefined && value !== "",
  );
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
Restart=on-failure
RestartSec=${AGAIN_AFTER_S}

[Install]
WantedBy=default.target
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
