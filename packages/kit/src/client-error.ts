/** What is answered to bytes that are no HTTP request, or not a whole one: an error of the table, like every other refusal. */
import { randomUUID } from "node:crypto";
import { STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { RbeesError } from "@rbees/contracts/errors";
import type { HttpLimits } from "./http-limits.ts";

export function refuseClient(error: NodeJS.ErrnoException, socket: Duplex, limits: HttpLimits): void {
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy();
  const refusal = refusalOf(error.code, limits);
  const { status } = refusal;
  const correlation_id = randomUUID();
  const body = JSON.stringify(refusal.body(correlation_id));
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    "connection: close",
    "content-type: application/json; charset=utf-8",
    `content-length: ${Buffer.byteLength(body)}`,
    `x-correlation-id: ${correlation_id}`,
  ];
  // What else comes is not read: the connection is over once this has left.
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`, () => socket.destroy());
}

function refusalOf(code: string | undefined, { headers_bytes_max }: HttpLimits): RbeesError {
  if (code === "HPE_HEADER_OVERFLOW")
    return new RbeesError("HEADERS_TOO_LARGE", `The request's headers are larger than ${headers_bytes_max} bytes together.`);
  if (code === "ERR_HTTP_REQUEST_TIMEOUT")
    return new RbeesError("REQUEST_TIMEOUT", "The request had not arrived whole when its time was over. Send it again.");
  return new RbeesError("INVALID_REQUEST", "This is no HTTP request, or a part of it is malformed.");
}
