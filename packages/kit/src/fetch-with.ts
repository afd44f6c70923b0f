/** A `fetch` whose connections are made and waited for otherwise than Node's own. The library for it is loaded with the first request. */
import type { Agent } from "undici";

export function fetchWith(options: Agent.Options): typeof fetch {
  let own: Promise<(...request: Parameters<typeof fetch>) => Promise<Response>> | undefined;
  return async (...request) => {
    own ??= import("undici").then(({ default: { Agent, fetch: send } }) => {
      const dispatcher = new Agent(options);
      return (input, init) => send(input as string, { ...init, dispatcher } as never) as unknown as Promise<Response>;
    });
    return (await own)(...request);
  };
}
