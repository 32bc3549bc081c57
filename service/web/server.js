// Where the server and its streams are, what it answers, and why it takes none.

import { authorization } from "./access.js";

export const ROOT = new URL("../", import.meta.url);
/** A network that is gone without a word would let the browser wait for minutes. */
const ANSWER_MS = 10_000;

/** The server answered that it does not do it. Any other Error of this module is that there was no answer. */
export class Refused extends Error {
  /** `error` is as in the answer: {message, retryable, retry_after_s}. */
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.error = error;
  }
}

/** The server wants a key, or another one. */
export class KeyWanted extends Refused {}

/** Where streams are. `resumption` is what a stream goes on with: in the query the server knows at the upgrade that it has it. */
export function streamAddress(resumption) {
  const url = new URL("v1/stream", ROOT);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams(resumption);
  return url;
}

/** Returns the subprotocols to open a stream with: a short-lived token in place of the key, which no address or log then has. */
export async function streamProtocols() {
  if (!authorization()) return [];
  const headers = { "Content-Type": "application/json" };
  const { token } = await ask("v1/tokens", { method: "POST", body: JSON.stringify({ scopes: ["stream"] }), headers });
  return ["sonotag.v1", `sonotag.bearer.${token}`];
}

/** A refused upgrade tells a browser nothing but 1006: readiness says why, and for a server that is ready its capacity. */
export async function whyRefused() {
  try {
    await ask("health/ready");
  } catch (error) {
    return error instanceof Refused ? `The server does not take streams: ${error.message}.` : error.message;
  }
  try {
    const { streams_open: open, streams_limit: limit } = await ask("v1/capacity");
    if (open < limit) return `The server did not take the stream, and has places now: ${open} of ${limit} streams are open.`;
    return `The server is full: ${open} of ${limit} streams are open.`;
  } catch {
    return "The server is ready but did not take the stream.";
  }
}

/** Returns the document that the server answers with. Throws KeyWanted, Refused, or an Error that says why there is no answer. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...authorization() };
  let answer;
  let text;
  try {
    answer = await fetch(new URL(path, ROOT), { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS), ...options, headers });
    text = await answer.text();
  } catch {
    throw new Error(navigator.onLine ? "The server cannot be reached." : "This device is offline.");
  }
  if (answer.ok) return JSON.parse(text);
  const Kind = answer.status === 401 || answer.status === 403 ? KeyWanted : Refused;
  throw new Kind(answer.status, errorIn(text) ?? { message: `status ${answer.status}`, retryable: answer.status >= 500 });
}

function errorIn(text) {
  try {
    const { error } = JSON.parse(text);
    return typeof error.message === "string" ? error : null;
  } catch {
    return null; // a proxy's
  }
}
