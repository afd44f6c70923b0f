/** What `main` and its harness processes tell each other: plain messages over the channel that `fork` opens. */

/** How a target wants a stream to be asked for. */
export interface Target {
  port: number;
  path: string;
  /** `execute`: the worker's own body, through a relay that only passes bytes. `task`: a job for the orchestrator. */
  body: "execute" | "task";
  trust?: Trust | undefined;
}

/** What a target asks of its callers. */
export interface Trust {
  /** The API key that is shown. */
  key: string;
  /** Everything is spoken in TLS, with certificates of this authority. */
  tls?: { ca: string; worker_cert: string; worker_key: string } | undefined;
}

/** What each stream asks the paced worker for, carried in the prompt so that it passes through every target. */
export interface Pace {
  /** Tokens a second; 0 answers everything in one write. */
  rate: number;
  tokens: number;
  /** Characters of padding in each token. */
  pad: number;
}

export interface StreamsOrder {
  kind: "streams";
  target: Target;
  streams: number;
  pace: Pace;
  settle_ms: number;
  /** 0: count until the streams have ended by themselves. */
  window_ms: number;
  /** The process whose CPU and memory are read at the edges of the window; 0 for none. */
  pid: number;
  /** Further streams that are opened when the others run, and read or left unread. */
  side?: { streams: number; pace: Pace; read: boolean };
}

export interface RequestsOrder {
  kind: "requests";
  target: Target;
  connections: number;
  pace: Pace;
  settle_ms: number;
  window_ms: number;
  pid: number;
}

export type Order = StreamsOrder | RequestsOrder;

export interface Quantiles {
  p50: number;
  p99: number;
}

export interface StreamsResult {
  tokens: number;
  seconds: number;
  cpu_ns: number;
  /** Tokens that arrived ÷ tokens that were due. */
  delivered: number;
  lag_us: Quantiles;
  rss_before: number;
  rss_peak: number;
  /** Streams of the side load that were cut off by the target. */
  side_cut: number;
  errors: string[];
}

export interface RequestsResult {
  requests: number;
  seconds: number;
  cpu_ns: number;
  first_token_us: Quantiles;
  errors: string[];
}

export type ClientReport = { window: "begins" | "ended" } | { streams: StreamsResult } | { requests: RequestsResult } | { failed: string };

export type WorkerOrder = { register: Registration } | { forget: true } | { finish: true };
/** Joins an orchestrator as so many workers. */
export interface Registration {
  url: string;
  workers: number;
  slots: number;
  trust?: Trust | undefined;
}
export type WorkerReport = { listening: number } | { registered: true } | { failed: string };

const PACE = /^rate=([\d.]+) pad=(\d+)$/;

export function promptFor({ rate, pad }: Pace): string {
  return `rate=${rate} pad=${pad}`;
}

export function paceOf(prompt: string, tokens: number): Pace {
  const found = PACE.exec(prompt);
  if (found === null) throw new RangeError(`not a pace: ${prompt}`);
  return { rate: Number(found[1]), pad: Number(found[2]), tokens };
}
