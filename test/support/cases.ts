/**
 * How many cases a long property test runs: few in `npm test`, which is for after every change, all in `npm run test:whole`, which CI
 * runs too.
 */
export const WHOLE = "RBEES_TEST_WHOLE";

export function cases({ few, all }: { few: number; all: number }): number {
  return process.env[WHOLE] === "1" ? all : few;
}
