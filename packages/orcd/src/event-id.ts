/**
 * Ids of a job's events. Each life of the orchestrator numbers them in a million of its own, so that what a life sent and then
 * lost is never taken for what the next one sends instead. An event that was on disk keeps its place within the million.
 */
const IDS_PER_LIFE = 1_000_000;

/** The id before the first event of a life. */
export function eventIdBase(life: number): number {
  return life * IDS_PER_LIFE;
}

/**
 * What a reader who has seen `id` has seen of the present life's events: the id after which it goes on. `kept`: how many events each
 * earlier life had on disk when it ended; of that life nothing beyond them counts.
 */
export function seenId(id: number, kept: readonly number[]): number {
  const life = Math.floor(id / IDS_PER_LIFE);
  const kept_then = kept[life];
  return kept_then === undefined ? id : eventIdBase(kept.length) + Math.min(id - eventIdBase(life), kept_then);
}
