/** The two harness processes as `main` sees them: the paced worker and the load client, kept warm over all rounds. */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { Processes } from "../processes.ts";
import type {
  ClientReport,
  Registration,
  RequestsOrder,
  RequestsResult,
  StreamsOrder,
  StreamsResult,
  WorkerOrder,
  WorkerReport,
} from "./messages.ts";

/** What is done at the edges of the window, such as counting system calls. */
export interface WindowEdges {
  begins?: () => void;
  ended?: () => void;
}

/** How long beyond its window a measurement may take: opening the streams, and their last tokens. */
const ANSWER_MS_MAX = 30_000;

export class Harness {
  readonly #worker: ChildProcess;
  readonly #client: ChildProcess;
  readonly worker_port: number;

  private constructor(worker: ChildProcess, client: ChildProcess, worker_port: number) {
    this.#worker = worker;
    this.#client = client;
    this.worker_port = worker_port;
  }

  static async start(processes: Processes): Promise<Harness> {
    const worker = processes.fork(new URL("paced-worker.ts", import.meta.url));
    const client = processes.fork(new URL("load-client.ts", import.meta.url));
    const [said] = (await once(worker, "message")) as [WorkerReport];
    if (!("listening" in said)) throw new Error("the paced worker did not start");
    return new Harness(worker, client, said.listening);
  }

  /** Joins an orchestrator as so many workers; their heartbeats go on until `forget`. */
  async register(registration: Registration): Promise<void> {
    this.#order({ register: registration });
    const [said] = (await once(this.#worker, "message")) as [WorkerReport];
    if ("failed" in said) throw new Error(`registering failed: ${said.failed}`);
  }

  forget(): void {
    this.#order({ forget: true });
  }

  #order(order: WorkerOrder): void {
    this.#worker.send(order);
  }

  async streams(order: Omit<StreamsOrder, "kind">, edges: WindowEdges = {}): Promise<StreamsResult> {
    // When the window is over the worker ends every stream, so that each can be checked to the last token.
    const ended = () => {
      edges.ended?.();
      this.#order({ finish: true });
    };
    const report = await this.#run({ kind: "streams", ...order }, { ...edges, ended });
    if (!("streams" in report)) throw new Error("the load client answered something else");
    return report.streams;
  }

  async requests(order: Omit<RequestsOrder, "kind">, edges: WindowEdges = {}): Promise<RequestsResult> {
    const report = await this.#run({ kind: "requests", ...order }, edges);
    if (!("requests" in report)) throw new Error("the load client answered something else");
    return report.requests;
  }

  #run(order: StreamsOrder | RequestsOrder, edges: WindowEdges): Promise<ClientReport> {
    const client = this.#client;
    return new Promise((resolve, reject) => {
      const onMessage = (report: ClientReport) => {
        if ("window" in report) return report.window === "begins" ? edges.begins?.() : edges.ended?.();
        client.off("message", onMessage);
        client.off("exit", onExit);
        clearTimeout(late);
        if ("failed" in report) reject(new Error(`the load client failed: ${report.failed}`));
        else resolve(report);
      };
      const onExit = () => reject(new Error("the load client has ended"));
      const late = setTimeout(
        () => reject(new Error(`a measurement did not end (${JSON.stringify(order)})`)),
        order.settle_ms + order.window_ms + ANSWER_MS_MAX,
      );
      client.on("message", onMessage);
      client.on("exit", onExit);
      client.send(order);
    });
  }
}
