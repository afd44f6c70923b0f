/** A job that has not ended, as the shell holds it: the request, its stream, what its attempts reported. */
import type { EmbedInput } from "@rbees/contracts/embed";
import type { EndEvent, TokenEvent } from "@rbees/contracts/events";
import type { JobSummary, SubmitJob } from "@rbees/contracts/job";
import type { TokenLogprob } from "@rbees/contracts/logprobs";
import type { Feature, LORA_FEATURE } from "@rbees/contracts/sets";
import type { ToolCall } from "@rbees/contracts/tools";
import { eventIdBase } from "./event-id.ts";
import type { JobStream } from "./job-stream.ts";

/** What was asked, through whichever door. */
export type AskedJob = SubmitJob & {
  /** Through the OpenAI API, or another that has no way back either: whoever loses the connection can't resume it. */
  readonly openai?: true;
  /** What its worker must be able to do beyond what every engine can, and the fields that ask for it, as that door calls them. */
  readonly needs?: readonly { readonly feature: Feature | `${typeof LORA_FEATURE}${string}`; readonly field: string }[];
  /** In place of a prompt: the numbers of its tokens. */
  readonly token_prompt?: number[];
  /** Their vectors are asked for, and no text. */
  readonly inputs?: readonly EmbedInput[];
  /** Inputs that are too long lose their end. */
  readonly truncate?: boolean;
  /** The job that this one is to be compared with. */
  readonly replay_of?: string;
};

/** What the job asks for. */
export function kindOf({ inputs }: Pick<AskedJob, "inputs">): JobSummary["kind"] {
  return inputs === undefined ? "generate" : "embed";
}

/** As it is kept: with the seed that was drawn for it. */
export type JobRequest = AskedJob & { readonly seed: number };

export interface ActiveJob {
  readonly id: string;
  readonly request: JobRequest;
  readonly tenant: string;
  /** The key with which it was submitted; null when nobody was asked. */
  readonly key_id: string | null;
  readonly correlation_id: string;
  readonly submitted_at_ms: number;
  /** Rules that held when it came. */
  readonly rules: readonly string[];
  /** They say that its content is kept no longer than this after its end. */
  readonly content_keep_ms?: number | undefined;
  readonly stream: JobStream;
  /** Earlier lives of the orchestrator in which it was unfinished. */
  readonly lives: number;
  attempt: number;
  first_token_at_ms: number | null;
  /** Of an embedding job, by input: the vectors that the present attempt has brought, base64. They are kept nowhere else. */
  vectors: string[];
  /** Set by the worker's `end`, read when the job is settled. */
  end: EndEvent | undefined;
  /** Its end is decided and its row has the text: what still comes of an attempt is not sent any more. */
  decided: boolean;
  /** Where in the queue it was told to be last; undefined before. */
  told: { readonly position: number; readonly eta_ms: number | undefined } | undefined;
  /** Why the last attempt was lost; the reason in the `migrated` event. */
  moved_because: string;
  /** Of the model whose tokens the client has been sent, if the worker that made them said. */
  model_digest: string | undefined;
  /** What computes it, by what its last worker said of itself. */
  ran_with: { readonly model_digest: string | undefined; readonly engine: string | undefined } | undefined;
  /** The last of its events that is on disk, or need not be. */
  kept_id: number;
}

/** The token events that make up the answer so far: without those that were taken back. */
function answerOf(job: ActiveJob): TokenEvent[] {
  const answer: TokenEvent[] = [];
  for (const event of job.stream.events(["token", "restarted"])) {
    if (event.type === "token") answer.push(event);
    else while (answer.length > 0 && (answer.at(-1) as TokenEvent).i >= event.from) answer.pop();
  }
  return answer;
}

/** The tokens the client has been sent, or undefined when the stream does not hold all of them any more. */
export function sentTokens(job: ActiveJob): number[] | undefined {
  if (job.stream.first_id > eventIdBase(job.lives) + 1) return undefined;
  return answerOf(job).flatMap(({ ids }) => ids);
}

/** What an answer says: its text, and what else was told apart, if anything. */
export interface Said {
  readonly text: string;
  readonly reasoning?: string;
  readonly tool_calls?: ToolCall[];
  /** Where the job asked for them. */
  readonly logprobs?: TokenLogprob[];
}

/** The answer so far. */
export function saidSoFar(job: ActiveJob): Said {
  let text = "";
  let reasoning = "";
  const tool_calls: ToolCall[] = [];
  const logprobs: TokenLogprob[] = [];
  for (const token of answerOf(job)) {
    text += token.t;
    if (token.reasoning !== undefined) reasoning += token.reasoning;
    if (token.logprobs !== undefined) logprobs.push(...token.logprobs);
    for (const { index, id = "", name = "", arguments: more } of token.tool_calls ?? []) {
      const call = tool_calls[index];
      if (call === undefined) tool_calls[index] = { id, type: "function", function: { name, arguments: more } };
      else call.function.arguments += more;
    }
  }
  return {
    text,
    ...(reasoning === "" ? {} : { reasoning }),
    ...(tool_calls.length === 0 ? {} : { tool_calls }),
    ...(job.request.logprobs === undefined ? {} : { logprobs }),
  };
}
