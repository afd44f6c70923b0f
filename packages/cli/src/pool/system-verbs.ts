/** `rbees-pool status`, `info` and `backends list`. */
import { InvalidArgumentError } from "@commander-js/extra-typings";
import type { PoolStatus } from "@rbees/contracts/pool";
import { VERSION } from "@rbees/kit/version";
import { renderBackends, renderStatus } from "../render/pool.ts";
import { facts } from "../render/table.ts";
import { verb } from "../verb.ts";
import { backends } from "./backends.ts";
import { poolStatus, prometheus } from "./status.ts";

const FORMATS = ["text", "prometheus"] as const;

function format(text: string): (typeof FORMATS)[number] {
  const found = FORMATS.find((name) => name === text);
  if (found === undefined) throw new InvalidArgumentError(`Give one of ${FORMATS.join(", ")}.`);
  return found;
}

export const systemVerbs = [
  verb(
    {
      path: "status",
      summary: "this host: processor, memory, disk, backends, models, workers",
      examples: [
        "rbees-pool status",
        "rbees-pool status --json",
        "rbees-pool status --format prometheus > /var/lib/node_exporter/rbees.prom",
      ],
    },
    (command) => command.option("--format <format>", "text, or prometheus for a textfile collector", format),
    {
      async run(context, options): Promise<PoolStatus | undefined> {
        const status = await poolStatus(context);
        if (options.format !== "prometheus") return status;
        context.io.out(await prometheus(context, status));
        return undefined;
      },
      render: (status, look) => (status === undefined ? "" : renderStatus(status, look)),
    },
  ),
  verb(
    {
      path: "info",
      summary: "versions and folders",
      examples: ["rbees-pool info", "rbees-pool info --json | jq -r .folders.data"],
    },
    (command) => command,
    {
      run: async ({ home, programs }) => ({
        version: VERSION,
        node: process.versions.node,
        platform: `${process.platform} ${process.arch}`,
        folders: { ...home },
        programs: { workerd: programs.workerd.join(" "), orcd: programs.orcd.join(" ") },
        demo_model: programs.demo_model,
      }),
      render: ({ version, node, platform, folders, programs, demo_model }, look) =>
        facts(
          [
            ["rbees", version],
            ["Node.js", node],
            ["platform", platform],
            ["configuration", folders.config],
            ["data", folders.data],
            ["state and logs", folders.state],
            ["worker program", programs.workerd],
            ["orchestrator program", programs.orcd],
            ["demo model", demo_model],
          ],
          look,
        ),
    },
  ),
  verb(
    {
      path: "backends list",
      summary: "what this host can generate on, and why not on the rest",
      examples: ["rbees-pool backends list", "rbees-pool backends list --json"],
    },
    (command) => command,
    {
      run: async (context) => ({ backends: await backends(context) }),
      render: (list, look) => renderBackends(list.backends, look),
    },
  ),
];
