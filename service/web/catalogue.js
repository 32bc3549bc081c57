// What the server serves.

import { ROOT, whyRefused } from "./stream.js";

const RETRY_MS = 2000;

async function getJson(path) {
  const answer = await fetch(new URL(path, ROOT));
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

/** Returns the models, the default one first; asks until the server answers, and says each time why it does not. */
export async function loadModels(onWait) {
  for (;;) {
    try {
      const { models } = await getJson("v1/models");
      return models.sort((a, b) => Number(b.default) - Number(a.default));
    } catch {
      onWait(`${await whyRefused()} Asking again…`);
      await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
    }
  }
}

/** Returns a model's labels by id. */
export async function loadLabels(model) {
  const { labels } = await getJson(`v1/labels?model=${encodeURIComponent(model)}`);
  return labels.sort((a, b) => a.id - b.id).map(({ label }) => label);
}
