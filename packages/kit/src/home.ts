/** Where rbees keeps its files on this host. One folder with `RBEES_HOME`, else the platform's own places. */
import { join, resolve } from "node:path";
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
    // Absolute, because the programs that are started here may run in another folder.
    const at = resolve(root);
    return { config: join(at, "config"), data: join(at, "data"), state: join(at, "state") };
  }
  const { config, data, log } = envPaths("rbees", { suffix: "" });
  return { config, data, state: log };
}
