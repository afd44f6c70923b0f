/**
 * `fetch` for programs that compute: Node's own gives up after five minutes without a byte, and before the first token of an answer there may
 * be a long prompt on a slow processor, or a queue.
 */
import { fetchWith } from "@rbees/kit/fetch-with";

/** A server that says nothing for so long has forgotten who asked: an hour. */
const SILENCE_MS_MAX = 3_600_000;

export const patientFetch = fetchWith({ headersTimeout: SILENCE_MS_MAX, bodyTimeout: SILENCE_MS_MAX });
