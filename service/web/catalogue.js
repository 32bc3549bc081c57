// What the server serves.

import { ask, KeyWanted, Refused, whyRefused } from "./server.js";

const RETRY_MS = 2000;

/**
 * Returns the models, the default one first; asks until the server answers, and says each time why it does not.
 * `onKey(message)` is asked for a key where the server wants one, and resolves when there is another.
 */
export async function loadModels(onWait, onKey) {
  for (;;) {
    try {
      const { models } = await ask("v1/models");
      return models.sort((a, b) => Number(b.default) - Number(a.default));
    } catch (error) {
      if (error instanceof KeyWanted) {
        await onKey(error.message);
        continue;
      }
      const why = error instanceof Refused ? await whyRefused() : error.message;
      onWait(`${why} Asking again…`);
      await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
    }
  }
}

/** Returns a model's labels by id. */
export async function loadLabels(model) {
  const { labels } = await ask(`v1/labels?model=${encodeURIComponent(model)}`);
  return labels.sort((a, b) => a.id - b.id).map(({ label }) => label);
}
