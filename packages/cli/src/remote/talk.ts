/** What the far end of `rbees pool … --host` says to the near one on stderr, a line of JSON each. */
import { z } from "zod";

export const Talk = z.union([
  z.object({ rbees: z.literal("hello"), version: z.string() }),
  z.object({ rbees: z.literal("say"), line: z.string() }),
  z.object({ rbees: z.literal("progress"), step: z.string().optional(), detail: z.string().optional() }),
]);
export type Talk = z.infer<typeof Talk>;
