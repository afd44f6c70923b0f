/** Preloaded into the orchestrator where memory is measured: collects garbage when told to, so that only what is held counts. */
process.on("SIGUSR2", () => {
  globalThis.gc?.();
});
