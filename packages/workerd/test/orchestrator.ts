/** A small stand-in for the orchestrator: keeps what it is told, and answers as the test wants. */

import type { RbeesError } from "@rbees/contracts/errors";
import { ORCHESTRATOR_SPEAKS, protocolMismatch, type Spoken } from "@rbees/contracts/protocol";
import { orcdRoutes } from "@rbees/contracts/routes";
import type { Beat, RegisterWorker } from "@rbees/contracts/worker";
import { type Handlers, type Served, type ServeOptions, serve } from "@rbees/kit/http";
import { silentLog } from "@rbees/kit/log";

const { registerWorker, beat, removeWorker } = orcdRoutes;
const routes = { registerWorker, beat, removeWorker };

export class FakeOrchestrator {
  readonly registrations: RegisterWorker[] = [];
  /** As whom they registered, by the header. */
  readonly named: (string | undefined)[] = [];
  readonly beats: (Beat & { id: string })[] = [];
  readonly removed: string[] = [];
  /** What the next calls of a route are refused with. */
  readonly refusals: { registerWorker: RbeesError[]; beat: RbeesError[] } = { registerWorker: [], beat: [] };
  heartbeat_ms = 20;
  /** As an orchestrator of another version would. */
  speaks: Spoken & { version: string } = { ...ORCHESTRATOR_SPEAKS, version: "0.0.0" };
  /** How often it was asked to register somebody. */
  asked = 0;
  /** What the answer to a registration waits for. */
  until_registered: Promise<void> | undefined;
  #server: Served | undefined;

  async listen(port = 0, authorize?: ServeOptions["authorize"]): Promise<string> {
    const refuse = (route: keyof FakeOrchestrator["refusals"]) => {
      const error = this.refusals[route].shift();
      if (error !== undefined) throw error;
    };
    const handlers: Handlers<typeof routes> = {
      registerWorker: async ({ body, head }) => {
        this.named.push(head["x-rbees-worker"]);
        this.asked += 1;
        refuse("registerWorker");
        const mismatch = protocolMismatch(body, this.speaks);
        if (mismatch !== undefined) throw mismatch;
        this.registrations.push(body);
        await this.until_registered;
        return { json: { status: "OK", heartbeat_ms: this.heartbeat_ms } };
      },
      beat: ({ params, body }) => {
        this.beats.push({ ...body, id: params.id });
        refuse("beat");
        return { json: { status: "OK" } };
      },
      removeWorker: ({ params }) => {
        this.removed.push(params.id);
        return { status: 204, none: true };
      },
    };
    this.#server = await serve(routes, handlers, {
      host: "127.0.0.1",
      port,
      log: silentLog(),
      body_bytes_max: 65_536,
      ping_ms: 15_000,
      authorize,
    });
    return this.#server.url;
  }

  async close(): Promise<void> {
    await this.#server?.close(0);
  }
}
