// The API key, where the server asks for one: kept for as long as the tab is open, and sent as a header only.

import { ROOT } from "./server.js";

const NAME = "sonotag.key";
/** A network that is gone without a word would let the browser wait for minutes. */
const TOKEN_MS = 10_000;

/** The server wants a key, or another one. */
export class KeyWanted extends Error {}

export function setKey(key) {
  if (key) sessionStorage.setItem(NAME, key);
  else sessionStorage.removeItem(NAME);
}

function headers() {
  const key = sessionStorage.getItem(NAME);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function messageOf(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `status ${answer.status}`;
  }
}

async function ask(path, options = {}) {
  const answer = await fetch(new URL(path, ROOT), { ...options, headers: { ...options.headers, ...headers() } });
  if (answer.ok) return answer.json();
  const message = await messageOf(answer);
  throw answer.status === 401 || answer.status === 403 ? new KeyWanted(message) : new Error(message);
}

export function getJson(path) {
  return ask(path);
}

/** Returns the subprotocols to open a stream with: a short-lived token in place of the key, which no address or log then has. */
export async function streamProtocols() {
  if (!sessionStorage.getItem(NAME)) return [];
  const body = JSON.stringify({ scopes: ["stream"] });
  const headers = { "Content-Type": "application/json" };
  const { token } = await ask("v1/tokens", { method: "POST", body, headers, signal: AbortSignal.timeout(TOKEN_MS) });
  return ["sonotag.v1", `sonotag.bearer.${token}`];
}
