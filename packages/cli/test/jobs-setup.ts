/** A scripted orchestrator and a command line that knows its address. */
import type { TestContext } from "node:test";
import { type FakeOrchestrator, fakeOrchestrator, type Script } from "./fake-orchestrator.ts";
import { type Bench, bench } from "./harness.ts";

export const SUBMIT = ["rbees", "jobs", "submit", "--model", "demo", "--prompt", "Hi"];

export async function setUp(t: TestContext, script: Script): Promise<{ orchestrator: FakeOrchestrator; at: string[]; rbees: Bench }> {
  const orchestrator = await fakeOrchestrator(script);
  t.after(() => orchestrator.close());
  const rbees = await bench((clean) => t.after(clean));
  return { orchestrator, at: ["--orchestrator", orchestrator.url], rbees };
}
