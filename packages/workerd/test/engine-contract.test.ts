/** The engines that hold the model themselves, against the contract. */

import { FEATURES } from "@rbees/contracts/sets";
import { engineContract } from "./engine-contract.ts";
import { LIBRARIES } from "./engine-options.ts";
import { startWorker } from "./support.ts";

for (const engine of LIBRARIES) {
  engineContract({
    name: engine,
    features: FEATURES,
    tells_tokens: true,
    draws_by_position: true,
    start: (model) => startWorker({ model, engine, ctx: 2048 }),
  });
}
