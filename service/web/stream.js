// One live stream over /v1/stream that comes back by itself. Times are seconds on the page's axis: 0 is the source's first sample.

import { KeyWanted, streamProtocols } from "./access.js";
import { toInt16 } from "./sources.js";

export const ROOT = new URL("../", import.meta.url);
const MAX_DELAY_SECONDS = 15;
const STOP_SECONDS = 15;
/** So much sound the network may be behind; then the connection is of no use any more. */
const MAX_BUFFERED_SECONDS = 20;
/** What another connection would end with in the same way, unless the error says otherwise. */
const FINAL_CODES = new Set([1003, 1007, 1009, 4400, 4401, 4403, 4413, 4415, 4429]);

export class LiveStream {
  #socket = null;
  #isReady = false;
  #hasStarted = false;
  #isStopping = false;
  #isOver = false;
  #failures = 0;
  #error = null;
  #timers = new Set();
  #base = 0;
  #captured = 0;

  /**
   * `source`: see sources.js. `query`: of the upgrade, without the format. `answered()`: up to where there are scores, in
   * seconds. `listener` has onState(phase, message), onReady(message), onTags(message, base), onPiece(samples, time),
   * onLost(seconds, why), onNote(text), onKey(message) where the server wants an API key, or another one.
   */
  constructor(source, query, answered, listener) {
    this.source = source;
    this.query = query;
    this.answered = answered;
    this.listener = listener;
  }

  get capturedSeconds() {
    return this.#captured;
  }

  /** Connects, and starts the source once the server is ready. */
  async open() {
    this.#state("connecting", this.#failures ? "Connecting again…" : "Connecting…");
    this.#error = null;
    this.#isReady = false;
    let protocols;
    try {
      protocols = await streamProtocols();
    } catch (error) {
      if (this.#isOver) return;
      if (error instanceof KeyWanted) this.#wantKey(error.message);
      else this.#comeBack(await whyRefused());
      return;
    }
    if (this.#isOver) return;
    const url = new URL("v1/stream", ROOT);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = new URLSearchParams({ ...this.query, encoding: "s16le", sample_rate: this.source.sampleRate });
    const socket = new WebSocket(url, protocols);
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => this.#closed(code);
    this.#socket = socket;
  }

  /** Ends the source and the stream; what was sent is still scored. */
  stop() {
    if (this.#isStopping || this.#isOver) return;
    this.#isStopping = true;
    this.source.stop();
    if (this.#isReady) this.#sendStop();
    else this.#end("Stopped.");
  }

  #state(phase, message) {
    this.listener.onState(phase, message);
  }

  #later(seconds, call) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      call();
    }, seconds * 1000);
    this.#timers.add(timer);
  }

  #sendStop() {
    this.#state("finishing", "Waiting for the last results…");
    this.#socket.send(JSON.stringify({ type: "stop" }));
    this.#later(STOP_SECONDS, () => this.#socket.close());
  }

  #receive(message) {
    if (message.type === "ready") this.#ready(message);
    else if (message.type === "tags") {
      this.#failures = 0;
      this.listener.onTags(message, this.#base);
    } else if (message.type === "warning") {
      if (message.code === "lag") this.listener.onLost(message.dropped_to - message.dropped_from, "the model was too slow");
      else this.listener.onNote(message.message);
    } else if (message.type === "error") {
      if (message.fatal) this.#error = message;
      this.listener.onNote(message.message);
    } else if (message.type === "going_away") this.listener.onNote("The server is going away.");
  }

  #ready(message) {
    this.#isReady = true;
    if (this.source.canWait) this.#captured = this.answered();
    this.#base = this.#captured;
    this.listener.onReady(message);
    this.#state("live", "Live");
    if (!this.#hasStarted) {
      this.#hasStarted = true;
      this.source.start((piece) => this.#take(piece), () => this.#sourceEnded());
    } else if (this.source.canWait) this.source.go(this.#captured);
  }

  #take(piece) {
    if (this.#isStopping) return;
    this.listener.onPiece(piece, this.#captured);
    const duration = piece.length / this.source.sampleRate;
    this.#captured += duration;
    if (!this.#isReady) {
      this.listener.onLost(duration, "there was no connection");
      return;
    }
    this.#socket.send(toInt16(piece));
    if (this.#socket.bufferedAmount > MAX_BUFFERED_SECONDS * 2 * this.source.sampleRate) {
      this.listener.onNote("The network is too slow for this sound.");
      this.#socket.close();
    }
  }

  #sourceEnded() {
    if (this.#isReady) this.#sendStop();
    else if (!this.source.canWait) this.stop();
  }

  #end(message) {
    this.#isOver = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.source.stop();
    this.#socket?.close();
    this.#state("ended", message);
  }

  #wantKey(message) {
    this.#end(`Ended by the server: ${message}`);
    this.listener.onKey(message);
  }

  async #closed(code) {
    const wasReady = this.#isReady;
    this.#isReady = false;
    for (const timer of this.#timers) clearTimeout(timer);
    if (this.#isOver) return;
    if (this.source.canWait) this.source.hold();
    if (code === 1000 || this.#isStopping) {
      this.#end("Done.");
    } else if (code === 4401) {
      this.#wantKey(this.#error?.message ?? "it wants an API key");
    } else if (this.#error ? !this.#error.retryable && FINAL_CODES.has(code) : FINAL_CODES.has(code)) {
      this.#end(`Ended by the server: ${this.#error?.message ?? `code ${code}`}`);
    } else {
      const reason = wasReady ? this.#whyLost(code) : await whyRefused();
      if (!this.#isOver) this.#comeBack(reason);
    }
  }

  #whyLost(code) {
    if (this.#error) return this.#error.message;
    return code === 1001 ? "The server went away." : "The connection was lost.";
  }

  #comeBack(reason) {
    const backOff = Math.min(MAX_DELAY_SECONDS, 0.5 * 2 ** this.#failures) * (0.75 + Math.random() / 2);
    const delay = Math.max(backOff, this.#error?.retry_after_s ?? 0);
    this.#failures += 1;
    this.#state("waiting", `${reason} Reconnecting in ${Math.max(1, Math.round(delay))} s…`);
    this.#later(delay, () => this.open());
  }
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
  return fetch(new URL(path, ROOT), { cache: "no-store" });
}

function messageIn(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return null;
  }
}
