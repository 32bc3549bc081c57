// Where the server and its streams are, and why it takes none.

export const ROOT = new URL("../", import.meta.url);
/** A network that is gone without a word would let the browser wait for minutes. */
const ANSWER_MS = 5000;

/** Where streams are. `resumption` is what a stream goes on with: in the query the server knows at the upgrade that it has it. */
export function streamAddress(resumption) {
  const url = new URL("v1/stream", ROOT);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams(resumption);
  return url;
}

/** A refused upgrade tells a browser nothing but 1006: readiness says why, and for a server that is ready its capacity. */
export async function whyRefused() {
  try {
    const answer = await ask("health/ready");
    if (!answer.ok) return `The server does not take streams: ${messageIn(await answer.text()) ?? `status ${answer.status}`}.`;
    const capacity = await ask("v1/capacity");
    if (!capacity.ok) return "The server is ready but did not take the stream.";
    const { streams_open: open, streams_limit: limit } = await capacity.json();
    if (open < limit) return `The server did not take the stream, and has places now: ${open} of ${limit} streams are open.`;
    return `The server is full: ${open} of ${limit} streams are open.`;
  } catch {
    return navigator.onLine ? "The server cannot be reached." : "This device is offline.";
  }
}

function ask(path) {
  return fetch(new URL(path, ROOT), { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
}

function messageIn(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return null;
  }
}
