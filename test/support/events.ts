/** What a client makes of a job's events: it adds each token, and takes back what `restarted` says. */

// biome-ignore lint/suspicious/noExplicitAny: a test looks at events field by field
export function answerOf(events: readonly any[]): { text: string; tokens: number[] } {
  let answer: { i: number; t: string; ids: number[] }[] = [];
  for (const event of events) {
    if (event.type === "token") {
      const next = answer.reduce((count, { ids }) => count + ids.length, 0);
      if (event.i !== next) throw new Error(`token ${event.i} came after ${next} tokens`);
      answer.push(event);
    }
    if (event.type === "restarted") answer = answer.filter(({ i }) => i < event.from);
  }
  return { text: answer.map(({ t }) => t).join(""), tokens: answer.flatMap(({ ids }) => ids) };
}
