/** What a job waits for whose model is to be loaded, in words. */
import { inWords } from "./demand.ts";
import { clearedFor, loadFor, sitesOf, waysMadeFor } from "./provision.ts";
import { type Job, loadKey, type State } from "./state.ts";

/** Of a job whose model nobody serves as it needs it; undefined when nothing can be said. */
export function whyNotLoaded(state: State, job: Job, now_ms: number): string | undefined {
  const { demands, demands_key } = job;
  const { model } = job.spec;
  const demanded = demands.length === 0 ? undefined : inWords(demands);
  if (!state.limits.auto_spawn) return demanded && `${demanded}, and no such worker serves ${model}.`;
  const key = loadKey(model, demands_key);
  const load = loadFor(state, job);
  if (load?.began) return `${model} is being loaded in ${load.pool_id} (${load.device_id}), since ${now_ms - load.since_ms} ms.`;
  if (load !== undefined) {
    const until = waysMadeFor(state, loadKey(model, load.demands_key)).map(
      ({ spec, running }) => `${spec.id} has ended its ${running.size} jobs`,
    );
    return `${model} will be loaded in ${load.pool_id} (${load.device_id}) as soon as ${until.length > 0 ? until.join(" and ") : "there is room"}.`;
  }
  const failed = state.load_failures.get(key);
  const again_ms = (state.load_not_before_ms.get(key) ?? 0) - now_ms;
  if (failed !== undefined && again_ms > 0) return `Loading ${model} failed (${failed.error}); it is tried again in ${again_ms} ms.`;
  const sites = sitesOf(state, { model, demands });
  if (sites.length === 0) return demanded === undefined ? `No pool has ${model} on disk.` : `${demanded}, and no such pool has ${model}.`;
  const places = sites.map((site) => {
    const { pool, device, memory_bytes, free_bytes } = site;
    const other = clearedFor(state, key, site);
    const place = `${pool.id} (${device.id})`;
    return other === undefined
      ? `${place} has ${free_bytes} bytes free of ${memory_bytes} that it needs`
      : `${place} is being cleared for ${other}`;
  });
  const stays = `workers that are busy, or have been there for less than ${state.limits.residency_ms_min} ms, stay`;
  return `${model} fits nowhere now: ${places.join("; ")}; ${stays}${whenTheyGo(state, key, now_ms)}.`;
}

function whenTheyGo(state: State, key: string, now_ms: number): string {
  const { make_way_ms } = state.limits;
  if (make_way_ms === 0) return "";
  const left_ms = make_way_ms - (now_ms - (state.no_room_since_ms.get(key) ?? now_ms));
  return left_ms > 0 ? `; busy ones make way in ${left_ms} ms` : "; busy ones make way as soon as they may";
}
