/** A request for a certificate, from a file or stdin. */
import { readFile } from "node:fs/promises";
import { RbeesError } from "@rbees/contracts/errors";
import type { Context } from "../context.ts";
import { CertificateRequest } from "./request.ts";

export async function readRequest(context: Context, file: string): Promise<CertificateRequest> {
  const text = file === "-" ? await context.io.read() : await textOf(file);
  try {
    return CertificateRequest.parse(JSON.parse(text));
  } catch (error) {
    throw new RbeesError(
      "INVALID_REQUEST",
      `${file === "-" ? "stdin" : file} holds no request as \`rbees-pool tls request --json\` prints it.`,
      {
        cause: error,
      },
    );
  }
}

function textOf(file: string): Promise<string> {
  return readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    const what = error.code === "ENOENT" ? "there is no such file" : error.message;
    throw new RbeesError("INVALID_REQUEST", `${file}: ${what}. \`rbees-pool tls request --json\` prints what belongs there.`, {
      cause: error,
    });
  });
}
