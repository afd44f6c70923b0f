/** Vectors as they come from workers: base64 of 32-bit numbers, the lowest byte first; and what clients get of them. */
import { RbeesError } from "@rbees/contracts/errors";

const NUMBER_BYTES = 4;

/** The first `dimensions` numbers of it, one long again; all of it when that is undefined. */
export function cutVector(base64: string, dimensions: number | undefined): string {
  if (dimensions === undefined) return base64;
  const all = numbersIn(base64);
  if (dimensions > all.length) {
    const problem = `the model's vectors have ${all.length} numbers, fewer than ${dimensions}`;
    throw new RbeesError("INVALID_REQUEST", `dimensions: ${problem}`, { param: "dimensions" });
  }
  const cut = all.slice(0, dimensions);
  const length = Math.hypot(...cut);
  const bytes = Buffer.alloc(dimensions * NUMBER_BYTES);
  for (const [at, value] of cut.entries()) bytes.writeFloatLE(length === 0 ? 0 : value / length, at * NUMBER_BYTES);
  return bytes.toString("base64");
}

/** With as many digits as it takes to tell a 32-bit number from its neighbours. */
export function numbersIn(base64: string): number[] {
  const bytes = Buffer.from(base64, "base64");
  return Array.from({ length: Math.floor(bytes.length / NUMBER_BYTES) }, (_, at) =>
    Number(bytes.readFloatLE(at * NUMBER_BYTES).toPrecision(9)),
  );
}
