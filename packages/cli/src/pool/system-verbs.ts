/** `rbees-pool status`, `info` and `backends list`. */
import { InvalidArgumentError } from "@commander-js/extra-typings";
import type { PoolStatus } from "@rbees/contracts/pool";
import { VERSION } from "@rbees/kit/version";
import { verb } from "../verb.ts";

/** Loaded when it is called: `--help` need not wait for it. */
const rendering = () => import("../render/pool.ts");

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
        const { poolStatus, prometheus } = await import("./status.ts");
        const status = await poolStatus(context);
        if (options.format !== "prometheus") return status;
        context.io.out(await prometheus(context, status));
        return undefined;
      },
      render: async (status, look) => (status === undefined ? "" : (await rendering()).renderStatus(status, look)),
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
      render: async ({ version, node, platform, folders, programs, demo_model }, look) =>
        (await import("../render/table.ts")).facts(
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
      run: async (context) => ({ backends: await (await import("./backends.ts")).backends(context) }),
      render: async (list, look) => (await rendering()).renderBackends(list.backends, look),
    },
  ),
];
