/** What the record says of the n-th job of a load on the store. */
import type { AuditEntry } from "@rbees/kit/audit-chain";

export function jobId(n: number): string {
  return `job_${n.toString(32).padStart(26, "0")}`;
}

export function acceptedAt(n: number): number {
  return 1_700_000_000_000 + n;
}

export function acceptedEntry(n: number): AuditEntry {
  const fields = {
    job_id: jobId(n),
    correlation_id: jobId(n),
    model: "bench",
    priority: "interactive",
    max_tokens: 100,
    seed: n,
    temperature: "0.7",
    prompt_sha256: "0".repeat(64),
    prompt_bytes: 300,
  };
  return { at_ms: acceptedAt(n), kind: "job.accepted", fields };
}
