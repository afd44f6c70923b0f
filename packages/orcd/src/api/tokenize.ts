/** Counting a prompt's tokens, at our own door and at Anthropic's: by a worker that holds the model, with its template and tokenizer. */
import { RbeesError } from "@rbees/contracts/errors";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Counted, Tokenize } from "@rbees/contracts/tokenize";
import type { Decision } from "@rbees/core/events";
import type { JobSpec } from "@rbees/core/state";
import type { Handlers } from "@rbees/kit/http";
import type { JobRequest } from "../active-job.ts";
import { namedModel } from "../adapters.ts";
import { callerOf } from "../caller.ts";
import { mintJobId } from "../job-id.ts";
import { rateHeaders } from "../limits.ts";
import { exactText } from "../prompt.ts";
import { auditChange, promptDigest } from "../record.ts";
import { shuttingDown } from "../shutting-down.ts";
import type { Store } from "../store/port.ts";
import type { WorkerDirectory } from "../worker-directory.ts";
import { type AdmitPorts, type Asker, jobSpec } from "./admit.ts";
import { turnsBefore } from "./anthropic.ts";

export interface TokenizePorts extends AdmitPorts {
  readonly store: Store;
  readonly workers: WorkerDirectory;
  /** Prompts that are counted at once. */
  readonly tokenize_running_max: number;
}

type Asked = Tokenize & { readonly model: string };
type Verdict = Extract<Decision, { type: "count" | "refuse" }>;

const RETRY_AFTER_MS = 200;

export function tokenizeHandlers(ports: TokenizePorts): Handlers<Pick<typeof orcdRoutes, "tokenize" | "anthropicCountTokens">> {
  const { loop, store, workers } = ports;
  let running = 0;

  async function counted(by_name: Asked, asker: Asker): Promise<Counted & { worker_id: string }> {
    // An adapter has its model's tokenizer.
    const asked = { ...by_name, model: namedModel(loop.state, by_name.model).model };
    if (ports.stopping()) throw shuttingDown();
    if (running >= ports.tokenize_running_max) {
      const message = `${running} prompts are being counted, which is as many as may be at once (tokenize_running_max).`;
      throw new RbeesError("RATE_LIMITED", message, { retry_after_ms: RETRY_AFTER_MS });
    }
    running += 1;
    try {
      return await byWorker(asked, await whereTo(asked, asker), asker);
    } finally {
      running -= 1;
    }
  }

  /** The workers that may be asked, the best first; throws the refusal. */
  async function whereTo(asked: Asked, asker: Asker): Promise<readonly string[]> {
    const { tenant, key_id } = callerOf(asker);
    const plain = specOf(asked, tenant, key_id, ports);
    const { denied, demands } = ports.policies.rule(plain);
    const { decisions } = loop.send({ type: "prompt.counted", spec: { ...plain, denied, demands } }, asker.who);
    const [verdict] = decisions.filter((one): one is Verdict => one.type === "count" || one.type === "refuse");
    if (verdict?.type !== "refuse") return verdict?.worker_ids ?? [];
    const { code, message, retry_after_ms, param, rule, limit } = verdict;
    const because = { code, ...(rule === undefined ? {} : { rule }), ...(limit === undefined ? {} : { limit }) };
    await note("prompt.refused", asked, asker, because);
    throw new RbeesError(code, message, {
      headers: rateHeaders(loop.state, { tenant, key_id }),
      ...(retry_after_ms === undefined ? {} : { retry_after_ms }),
      ...(param === undefined ? {} : { param }),
    });
  }

  /** A prompt leaves for a worker: that is in the record before it does. */
  async function byWorker(prompt: Asked, worker_ids: readonly string[], asker: Asker): Promise<Counted & { worker_id: string }> {
    const { model, ...asked } = prompt;
    let last = "";
    for (const worker_id of worker_ids) {
      const link = workers.link(worker_id);
      if (link === undefined) continue;
      await note("prompt.counted", prompt, asker, { worker_id });
      const outcome = await link.tokenize(asked, asker.correlation_id);
      if ("counted" in outcome) return { ...outcome.counted, worker_id };
      // What the prompt itself is refused for is so everywhere.
      if (outcome.error?.code === "INVALID_REQUEST") throw outcome.error;
      last = ` The last of them: ${outcome.reason}.`;
    }
    throw new RbeesError("NO_WORKER", `No worker that holds ${model} has counted.${last}`, { retry_after_ms: RETRY_AFTER_MS });
  }

  /** As of a job: whose prompt it was, and its hash. */
  async function note(kind: string, asked: Asked, asker: Asker, more: Readonly<Record<string, string>>): Promise<void> {
    const { correlation_id, who } = asker;
    const prompt = promptDigest(exactText(asked));
    const fields = { correlation_id, tenant: callerOf(asker).tenant, model: asked.model, ...more, ...prompt };
    await store.commit([auditChange(kind, fields, { now_ms: Date.now(), who })]);
  }

  return {
    async tokenize(request) {
      const { model } = request.body;
      const { worker_id, tokens_in, tokens } = await counted(request.body, request);
      return { json: { model, worker_id, tokens_in, ...(tokens === undefined ? {} : { tokens }) } };
    },
    async anthropicCountTokens(request) {
      const { model, messages, system, tools, tool_choice } = request.body;
      const asked = {
        ...{ model, raw: false, with_tokens: false, messages: [...turnsBefore(system), ...messages] },
        ...((tools ?? []).length > 0 ? { tools: tools ?? [] } : {}),
        ...((tools ?? []).length > 0 && tool_choice ? { tool_choice: tool_choice.choice } : {}),
      };
      return { json: { input_tokens: (await counted(asked, request)).tokens_in } };
    },
  };
}

/** As of a job, but for what only an answer has. */
function specOf(asked: Asked, tenant: string, key_id: string | null, { loop }: TokenizePorts): JobSpec {
  const { model, prompt, messages, raw, tools, tool_choice } = asked;
  const now_ms = Date.now();
  const hides = tool_choice === "none" ? ({ tool_choice: "none" } as const) : {};
  const request: JobRequest = {
    ...{ model, prompt, messages, raw, tools, ...hides, max_tokens: 0, temperature: 0, stop: [], seed: 0, priority: "interactive" },
    ...{ on_disconnect: "cancel", on_worker_lost: "fail", stream: false, metadata: {}, needs: [{ feature: "tokenize", field: "model" }] },
  };
  const spec = jobSpec({ id: mintJobId(now_ms), tenant, key_id, request, submitted_at_ms: now_ms }, loop.state.limits);
  // However long it is, it can be counted.
  return { ...spec, prompt_tokens_min: 0 };
}
