/** The rules of worlds that have some. */
import type { Gate } from "../src/gate.ts";

/** Jobs of this tenant go to no worker that does not say where it is, and all rather where disks are fast. */
export const BARRED = "t1";
export const RULES: Gate = ({ tenant }, { areas, labels }) => ({
  barred: tenant === BARRED && areas.length === 0 ? { rule: "somewhere", message: "say where" } : null,
  preference: labels["disk"] === "fast" ? 1 : 0,
  rules: [],
});
