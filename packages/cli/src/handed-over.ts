/** What a program is told on its stdin by whoever called it, as one line of JSON: what must not stand among the words of a command. */
import { fieldProblems } from "@rbees/contracts/error-body";
import { invalidRequest } from "@rbees/contracts/errors";
import type { z } from "zod";
import type { Context } from "./context.ts";

/** `what` names it when it is refused. */
export async function readHandedOver<T>(context: Context, schema: z.ZodType<T>, what: string): Promise<T> {
  const text = await (context.first_line ?? context.io.read());
  const parsed = schema.safeParse(parsedJson(text));
  if (parsed.success) return parsed.data;
  throw invalidRequest(fieldProblems(parsed.error), `${what} on stdin`);
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
