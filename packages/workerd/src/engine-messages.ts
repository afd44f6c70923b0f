/**
 * What `EngineProcess` and the engine's child process say to each other. The child is told over IPC; what it says comes through a pipe of
 * its own, a line of JSON each, because writing to that takes half of what sending does, and it is done in each step.
 */
import type { ErrorCode } from "@rbees/contracts/errors";
import type {
  CountedTokens,
  EmbedRequest,
  EngineCounts,
  EngineOptions,
  ModelFacts,
  RunAccepted,
  RunRequest,
  StepReport,
  StoredPrefixes,
  TokenizeRequest,
} from "./engine.ts";

/** The pipe, as the child's file descriptor. */
export const REPORTS_FD = 4;

export type ToEngine =
  | { type: "load"; options: EngineOptions }
  | { type: "start"; run: number; request: RunRequest }
  | { type: "embed"; run: number; request: EmbedRequest }
  | { type: "tokenize"; run: number; request: TokenizeRequest }
  | { type: "end" }
  | { type: "abort"; run: number }
  | { type: "store" };

export type FromEngine =
  | { type: "progress"; fraction: number }
  /** Another engine computes than is usually taken. */
  | { type: "fallback"; reason: string }
  | { type: "loaded"; facts: ModelFacts }
  | { type: "failed"; error: WireError }
  | { type: "accepted"; run: number; accepted: Accepted }
  | { type: "refused"; run: number; error: WireError }
  | { type: "step"; reports: readonly StepReport[] }
  | { type: "recalled"; stored: StoredPrefixes & { problem?: string } }
  | { type: "stored"; stored: StoredPrefixes | undefined }
  | { type: "not_stored"; problem: string }
  | { type: "counted"; counts: EngineCounts }
  | { type: "memory"; bytes: number };

/** What a run was accepted with: of an embedding only the tokens, and of what is only counted all that there is. */
export type Accepted = CountedTokens & Partial<RunAccepted>;

/** An `RbeesError` as plain data. */
export interface WireError {
  code: ErrorCode;
  message: string;
  details?: unknown;
  param?: string | undefined;
}
