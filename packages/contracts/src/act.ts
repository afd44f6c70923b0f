/** What the command line tells the orchestrator of its acts on a pool's machine, for the record. */
import { z } from "zod";
import { POOL_ACTS } from "./sets.ts";

export const PoolAct = z
  .strictObject({
    act: z.enum(POOL_ACTS),
    pool: z.string().min(1).max(253).describe("The machine: its registered name or its address"),
    about: z.array(z.string().max(512)).max(8).default([]).describe("Which model or worker, as it was said"),
    state: z.enum(["asked", "done", "failed"]).describe("asked: it is about to happen, and must not without this"),
  })
  .meta({ id: "PoolAct" });
export type PoolAct = z.infer<typeof PoolAct>;
