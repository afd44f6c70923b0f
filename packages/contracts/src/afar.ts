/** How a program of ours that is called by another one is told so, and what holds it. What it says then is in `talk.ts`. */

/** In its environment: its talk is for a program, and its stdin says that somebody is there. */
export const AFAR = "RBEES_AFAR";

/** Whoever called writes an empty line to its stdin this often. */
export const BEAT_MS = 5000;
