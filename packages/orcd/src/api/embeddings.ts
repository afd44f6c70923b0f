/** Embeddings through OpenAI's API and Ollama's: jobs like any other, whose answer is vectors. */
import type { EmbedInput } from "@rbees/contracts/embed";
import type { JobHeaders } from "@rbees/contracts/openai";
import type { orcdRoutes } from "@rbees/contracts/routes";
import type { Handlers } from "@rbees/kit/http";
import type { AskedJob } from "../active-job.ts";
import { cutVector, numbersIn } from "../vectors.ts";
import { type AdmitPorts, admit } from "./admit.ts";
import { type Asking, fromHeaders, whole } from "./door.ts";
import { knownModel, ollamaName } from "./ollama.ts";

type EmbeddingRoutes = Pick<typeof orcdRoutes, "openaiEmbeddings" | "ollamaEmbed" | "ollamaEmbeddings">;

const NANOSECONDS = 1_000_000;

export function embeddingHandlers(ports: AdmitPorts): Handlers<EmbeddingRoutes> {
  const { state } = ports.loop;

  async function made(asked: AskedJob, request: Asking, dimensions: number | null | undefined) {
    const begun = await admit(ports, asked, request);
    const { last } = await whole(ports, begun, request);
    return {
      headers: begun.headers,
      last,
      job: begun.job,
      vectors: begun.job.vectors.map((vector) => cutVector(vector, dimensions ?? undefined)),
    };
  }

  return {
    async openaiEmbeddings(request) {
      const { model, input, encoding_format, dimensions, user } = request.body;
      const asked = embeddingJob(model, input, request.head, (user ?? undefined) === undefined ? {} : { user: user as string });
      const { vectors, last, headers } = await made(asked, request, dimensions);
      const data = vectors.map((vector, index) => ({
        object: "embedding" as const,
        index,
        embedding: encoding_format === "base64" ? vector : numbersIn(vector),
      }));
      const usage = { prompt_tokens: last.tokens_in, total_tokens: last.tokens_in };
      return { headers, json: { object: "list", data, model, usage } };
    },
    async ollamaEmbed(request) {
      const { body, head } = request;
      const { input, truncate, dimensions } = body;
      // Nothing is asked of the model: clients do so to have it loaded.
      if (input.length === 0) return { json: { model: knownModel(state, body.model, request), embeddings: [] } };
      const asked = { ...embeddingJob(ollamaName(state, body.model), input, head), truncate: truncate ?? true };
      const { vectors, last, job, headers } = await made(asked, request, dimensions);
      return {
        headers,
        json: {
          model: asked.model,
          embeddings: vectors.map(numbersIn),
          total_duration: Math.max(0, Date.now() - job.submitted_at_ms) * NANOSECONDS,
          load_duration: 0,
          prompt_eval_count: last.tokens_in,
        },
      };
    },
    async ollamaEmbeddings(request) {
      const { body, head } = request;
      if (body.prompt === "") {
        knownModel(state, body.model, request);
        return { json: { embedding: [] } };
      }
      const asked = { ...embeddingJob(ollamaName(state, body.model), [body.prompt], head), truncate: true };
      const { vectors, headers } = await made(asked, request, undefined);
      return { headers, json: { embedding: vectors.flatMap(numbersIn) } };
    },
  };
}

const needs = [{ feature: "embeddings", field: "input" }] as const;

/** No token of it is drawn: what says how has nothing to say. */
export function embeddingJob(
  model: string,
  inputs: readonly EmbedInput[],
  head: JobHeaders,
  metadata: Record<string, string> = {},
): AskedJob {
  return { ...fromHeaders(head), model, inputs, needs, raw: true, max_tokens: 0, temperature: 0, stop: [], stream: false, metadata };
}
