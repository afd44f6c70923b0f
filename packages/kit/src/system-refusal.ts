/** What the operating system refused is no bug: a file that can't be read, a folder that can't be written, a full disk. */
import { RbeesError } from "@rbees/contracts/errors";

export function isDiskFull(error: unknown): boolean {
  return error instanceof Error && "code" in error && ["ENOSPC", "EDQUOT"].includes(String(error.code));
}

/** Undefined for every other error. `next`: a sentence that says what to do. */
export function systemRefusal(error: unknown, next: string): RbeesError | undefined {
  if (!(error instanceof Error) || !("syscall" in error) || !("code" in error)) return undefined;
  if (isDiskFull(error))
    return new RbeesError("CONFLICT", `The disk is full (${error.message}): make room, then try again. ${next}`, { cause: error });
  const not_allowed = ["EACCES", "EPERM", "EROFS"].includes(String(error.code));
  return new RbeesError(not_allowed ? "FORBIDDEN" : "CONFLICT", `The system refuses: ${error.message}. ${next}`, { cause: error });
}
