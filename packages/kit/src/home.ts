/** Where rbees keeps its files on this host. One folder with `RBEES_HOME`, else the platform's own places. */
import { join } from "node:path";
import envPaths from "env-paths";

export interface Home {
  /** `config.toml` lives here. */
  readonly config: string;
  /** Catalogue, downloaded models, the orchestrator's database. */
  readonly data: string;
  /** Records of running processes and their logs. */
  readonly state: string;
}

export function homeOf(env: Readonly<Record<string, string | undefined>>): Home {
  const root = env["RBEES_HOME"];
  if (root !== undefined && root !== "") {
    return { config: join(root, "config"), data: join(root, "data"), state: join(root, "state") };
  }
  const { config, data, log } = envPaths("rbees", { suffix: "" });
  return { config, data, state: log };
}
