// One live stream over /v1/stream that comes back by itself, and goes on where it was. Times are seconds on the page's axis: 0 is
// the source's first sample.

import { Axis } from "./axis.js";
import { Feed } from "./feed.js";
import { describeReturn, isFinal, pauseSeconds, RESUME_SECONDS, whyLost } from "./resumption.js";
import { SentSound } from "./sent.js";
import { KeyWanted, Refused, streamAddress, streamProtocols, whyRefused } from "./server.js";

/** Longer than the server keeps a stream: what the network held when it broke is in it. */
const KEEP_SECONDS = 35;
/** So much more than that may wait for a network that is slower than the sound; then the stream comes back to the present… */
const BEHIND_SECONDS = 15;
/** …with no more than this. */
const KEEP_WHEN_SLOW_SECONDS = 5;
/** A file is not played further ahead of the network. */
const FILE_AHEAD_SECONDS = 5;
const SILENT_SECONDS = 10;
const TICK_MS = 100;
/** The page's own reason to leave a connection; 1000 would say that it does not come back. */
const BROKEN = 4000;

export class LiveStream {
  #socket = null;
  #openedAt = 0;
  #isReady = false;
  #hasStarted = false;
  #hasReturned = false;
  #stoppedAt = null;
  #isOver = false;
  #failures = 0;
  #brokenAt = null;
  #error = null;
  #retry = null;
  #ticker = null;
  #token = null;
  #lastSeq = 0;

  /**
   * `source`: see sources.js. `configuration`: of `start`, without the format. `listener` has onState(phase, message),
   * onReady(message), onTags(message, base), onPiece(samples, time), onLost(seconds, why), onGap(from, to) where nobody has
   * the sound any more, onNote(text), onKey(message) where the server wants an API key, or another one.
   */
  constructor(source, configuration, listener, keepSeconds = KEEP_SECONDS) {
    this.source = source;
    this.configuration = configuration;
    this.listener = listener;
    this.keepSeconds = keepSeconds;
    this.rate = source.sampleRate;
    this.axis = new Axis(this.rate);
    this.sound = new SentSound(keepSeconds * this.rate);
    this.feed = new Feed(this.sound, this.rate);
  }

  /** Connects, and starts the source once the server is ready. */
  async open() {
    this.#state("connecting", this.#brokenAt === null ? "Connecting…" : "Connecting again…");
    this.#error = null;
    let protocols;
    try {
      protocols = await streamProtocols();
    } catch (error) {
      if (this.#isOver) return;
      if (error instanceof KeyWanted) this.#wantKey(error.message);
      else if (error instanceof Refused) this.#refused(error.status, error.error);
      else this.#comeBack(error.message);
      return;
    }
    if (this.#isOver) return;
    this.sound.hold(this.sound.first); // what is asked for now is there when the server is ready
    const socket = new WebSocket(streamAddress(this.#whereItBroke()), protocols);
    const ifCurrent = (call) => (event) => { if (socket === this.#socket) call(event); };
    socket.onopen = ifCurrent(() => { if (this.#token === null) this.#begin(); });
    socket.onmessage = ifCurrent(({ data }) => this.#receive(JSON.parse(data)));
    socket.onclose = ifCurrent(({ code }) => this.#closed(code));
    this.#socket = socket;
    this.#openedAt = performance.now();
    this.#ticker ??= setInterval(() => this.#tick(), TICK_MS);
  }

  /** Ends the source and the stream; what was heard is still scored. A second time, without a connection: leaves that. */
  stop() {
    if (this.#isOver) return;
    if (!this.#isReady && (this.#isStopping || this.axis.answered >= this.sound.end)) {
      this.#giveUp("Stopped.");
      return;
    }
    this.#stoppedAt ??= performance.now();
    this.source.stop();
    this.feed.finish();
    if (this.#isReady) this.#state("finishing", "Waiting for the last results…");
    else this.#state("waiting", "Stopped. What was heard is sent when the connection is back; stop again to leave it.");
  }

  get #isStopping() { return this.#stoppedAt !== null; }

  #state(phase, message) { this.listener.onState(phase, message); }

  #begin() {
    this.#token = null;
    this.#socket.send(JSON.stringify({ type: "start", ...this.configuration, encoding: "s16le", sample_rate: this.rate }));
  }

  #whereItBroke() {
    if (this.#token === null) return {};
    const from = Math.max(0, this.sound.first - this.axis.base) / this.rate;
    return { resume_token: this.#token, last_seq: this.#lastSeq, resume_from: from };
  }

  #receive(message) {
    this.feed.hear(performance.now());
    if (message.seq) {
      if (message.seq <= this.#lastSeq) return;
      this.#lastSeq = message.seq;
    }
    if (message.type === "ready") this.#ready(message);
    else if (message.type === "tags") this.#tags(message);
    else if (message.type === "warning") this.#warning(message);
    else if (message.type === "error") {
      if (message.fatal) this.#error = message;
      if (message.code === "resume_unknown") this.#begin(); // `ready` will tell it
      else this.listener.onNote(message.message);
    } else if (message.type === "going_away") this.listener.onNote("The server is going away.");
  }

  #ready(message) {
    const isNew = message.resumed_at === undefined;
    if (isNew) this.#lastSeq = 0;
    if (this.#hasStarted) this.#returned(isNew, isNew ? this.axis.beginAnew(this.sound.first) : this.axis.miss(message.missing));
    this.axis.configure(message.configuration);
    this.#token = message.resume_token ?? null;
    this.#brokenAt = null;
    this.#isReady = true;
    this.listener.onReady(message);
    if (this.#isStopping) this.#state("finishing", "Waiting for the last results…");
    else this.#state("live", "Live");
    const from = Math.max(this.axis.at(message.resumed_at ?? 0), this.sound.first);
    this.feed.begin(this.#socket, from, performance.now());
    if (this.#hasStarted) return;
    this.#hasStarted = true;
    this.source.start((piece) => this.#take(piece), () => this.stop());
  }

  #returned(isNew, lost) {
    this.#hasReturned = true;
    for (const [from, to] of lost) this.listener.onGap(from, to);
    this.listener.onNote(describeReturn(this.#brokenSeconds, isNew, lost));
  }

  get #brokenSeconds() {
    return this.#brokenAt === null ? 0 : (performance.now() - this.#brokenAt) / 1000;
  }

  #tags(message) {
    this.#failures = 0;
    if (this.axis.answer(message.end)) this.listener.onTags(message, this.axis.base / this.rate);
  }

  #warning(message) {
    if (message.code === "lag") {
      const seconds = this.axis.drop(message.dropped_from, message.dropped_to);
      if (seconds > 0) this.listener.onLost(seconds, "the model was too slow");
    } else if (message.code !== "sample_rate_suspect" || !this.#hasReturned) {
      // A stream that begins with what another one has heard is faster than its sound, for good reason.
      this.listener.onNote(message.message);
    }
  }

  #take(piece) {
    if (this.#isStopping) return;
    this.listener.onPiece(piece, this.sound.end / this.rate);
    this.feed.take(piece, performance.now());
  }

  #tick() {
    const now = performance.now();
    if (!this.#isReady) {
      if (this.#socket && now - this.#openedAt > SILENT_SECONDS * 1000) this.#leave("The server does not answer.");
      return;
    }
    this.feed.tick(now);
    if (this.feed.behindSeconds > this.keepSeconds + BEHIND_SECONDS) {
      this.sound.forgetBefore(this.sound.end - KEEP_WHEN_SLOW_SECONDS * this.rate);
      this.#leave("The network is too slow for this sound.");
    } else if (this.feed.stillSeconds(now) > SILENT_SECONDS) this.#leave("The connection stands still.");
    else if (this.source.canWait && !this.#isStopping) this.#pace();
  }

  #pace() {
    if (this.feed.behindSeconds > FILE_AHEAD_SECONDS) this.source.hold();
    else if (this.source.isHeld && this.feed.behindSeconds === 0) this.source.go(this.sound.end / this.rate);
  }

  #end(message) {
    this.#isOver = true;
    clearTimeout(this.#retry);
    clearInterval(this.#ticker);
    this.source.stop();
    this.#socket?.close(1000);
    this.#socket = null;
    this.#state("ended", message);
  }

  /** Ends without having heard the end of the stream. */
  #giveUp(message) {
    const [from, to] = [this.axis.answered / this.rate, this.sound.end / this.rate];
    if (to > from) this.listener.onGap(from, to);
    this.#end(message);
  }

  #wantKey(message) {
    this.#giveUp(`Ended by the server: ${message}`);
    this.listener.onKey(message);
  }

  /** Gives up a connection of which the browser does not know yet that it is of no use. */
  #leave(reason) {
    this.#socket.close(BROKEN);
    this.#part();
    this.#comeBack(reason);
  }

  #part() {
    this.#socket = null;
    this.#isReady = false;
    this.feed.leave();
    this.#brokenAt ??= performance.now();
    if (this.source.canWait) this.source.hold();
  }

  async #closed(code) {
    const wasReady = this.#isReady;
    this.#part();
    if (code === 1000) this.#end(this.axis.answered > 0 ? "Done." : "Done. Nothing was scored: the sound is too short.");
    else if (code === 4401) this.#wantKey(this.#error?.message ?? "it wants an API key");
    else if (wasReady || this.#error || isFinal(code, null)) this.#refused(code, this.#error);
    else {
      const reason = await whyRefused();
      if (!this.#isOver) this.#comeBack(reason);
    }
  }

  #refused(code, error) {
    this.#error = error;
    if (isFinal(code, error)) this.#giveUp(`Ended by the server: ${error?.message ?? `code ${code}`}`);
    else this.#comeBack(whyLost(code, error));
  }

  #comeBack(reason) {
    if (this.#isStopping && performance.now() - this.#stoppedAt > RESUME_SECONDS * 1000) {
      this.#giveUp(`Stopped. ${reason}`);
      return;
    }
    const pause = pauseSeconds(this.#failures, this.#brokenSeconds, this.#error?.retry_after_s, Math.random());
    this.#failures += 1;
    const isHearing = this.#hasStarted && !this.source.canWait && !this.#isStopping;
    const meanwhile = isHearing ? ` The last ${this.keepSeconds} s of sound are kept.` : "";
    this.#state("waiting", `${reason} Reconnecting in ${Math.max(1, Math.round(pause))} s…${meanwhile}`);
    this.#retry = setTimeout(() => this.open(), pause * 1000);
  }
}
