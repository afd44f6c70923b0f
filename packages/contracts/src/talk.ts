/** What a program that is called by another one (`afar.ts`) says on stderr, a line of JSON each. */
import { z } from "zod";

/** Of a step, where it is known how much of it is done: 0 to 1. */
const Share = z.number().min(0).max(1);

export const Talk = z.union([
  z.object({ rbees: z.literal("hello"), version: z.string() }),
  z.object({ rbees: z.literal("say"), line: z.string() }),
  z.object({ rbees: z.literal("progress"), step: z.string().optional(), detail: z.string().optional(), share: Share.optional() }),
]);
export type Talk = z.infer<typeof Talk>;

/** What a line of stderr says; undefined when it is not of a program of ours. */
export function talkIn(line: string): Talk | undefined {
  if (!line.startsWith('{"rbees":')) return undefined;
  try {
    return Talk.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}
