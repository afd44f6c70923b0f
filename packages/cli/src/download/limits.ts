/** What a download does unless told otherwise: the figures that its flags show. */

/** At once, for one model. */
export const CONNECTIONS = 4;
/** A connection without a byte for so long is replaced. */
export const STALL_MS_MAX = 30_000;
/** How often in a row a request may fail. */
export const ATTEMPTS_MAX = 6;
