/** `rbees test models` */
import { InvalidArgumentError } from "@commander-js/extra-typings";
import { EXIT } from "@rbees/contracts/errors";
import { BACKENDS } from "@rbees/contracts/sets";
import type { Backend } from "@rbees/contracts/worker";
import { verb } from "../verb.ts";

const PAGE = "MODEL_SUPPORT.md";

export const supportVerbs = [
  verb(
    {
      path: "test models",
      summary: "every model on every backend of every pool: does it run, and how fast?",
      examples: [
        "rbees test models",
        "rbees test models --models demo,qwen --pools localhost,atlas --backends cpu,cuda",
        "rbees test models --models demo --no-write --json | jq '.results[].figures.tokens_per_second'",
      ],
    },
    (command) =>
      command
        .option("--models <list>", "which models: names, or references such as hf:org/repo (default: all that this host knows)", list)
        .option("--pools <list>", "which machines (default: localhost and all that are registered)", list)
        .option("--backends <list>", `which of ${BACKENDS.join(", ")} (default: all)`, backends)
        .option("--write <file>", "the page that the results are added to", PAGE)
        .option("--no-write", "no page"),
    {
      async run(context, { models, pools, backends: wanted, write }) {
        return (await import("./run.ts")).testModels(context, {
          models,
          pools,
          backends: wanted ?? BACKENDS,
          write: typeof write === "string" ? write : undefined,
        });
      },
      render: async ({ results }, look) => (await import("./render.ts")).renderSupport(results, look),
      exit: ({ results }) =>
        results.some(({ outcome }) => outcome === "passed") && !results.some(({ outcome }) => outcome === "failed")
          ? EXIT.done
          : EXIT.failed,
    },
  ),
];

function list(text: string, before: readonly string[] | undefined): readonly string[] {
  const words = text.split(",").map((word) => word.trim());
  if (words.some((word) => word === "")) throw new InvalidArgumentError("Give one or more, with commas between.");
  return [...new Set([...(before ?? []), ...words])];
}

function backends(text: string, before: readonly Backend[] | undefined): readonly Backend[] {
  const words = list(text, before);
  const known = BACKENDS.filter((backend) => words.includes(backend));
  if (known.length !== words.length) throw new InvalidArgumentError(`Give some of ${BACKENDS.join(", ")}.`);
  return known;
}
