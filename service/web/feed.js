// Sends a source's sound over one connection after another, from wherever a connection wants it.
//
// Sound is sent as it is heard. What is behind, after a break or on a slow network, follows a few times as fast as it was
// heard: all at once, the windows in it would be too late for the model, which drops them then.

import { toInt16 } from "./sources.js";

const CATCH_UP_SPEED = 4;
/** What the browser may hold for the network; the rest waits here, where another connection can have it. */
const MAX_BUFFERED_SECONDS = 2;

export class Feed {
  #socket = null;
  #position = 0;
  #isEnded = false;
  #isStopSent = false;
  #tickedAt = 0;
  #movedAt = 0;

  /** `sound`: a SentSound. `rate`: its samples a second. Times are milliseconds of one clock. */
  constructor(sound, rate) {
    this.sound = sound;
    this.rate = rate;
  }

  /** Sends over this socket, from a position that is kept; what is not sent yet stays so. */
  begin(socket, position, now) {
    this.#socket = socket;
    this.#advance(position);
    this.#isStopSent = false;
    this.#tickedAt = this.#movedAt = now;
  }

  /** The connection is over: what comes is kept, and what is too old is not any more. */
  leave() {
    this.#socket = null;
    this.sound.hold(Infinity);
  }

  /** The source has ended: `stop` follows its last sound. */
  finish() {
    this.#isEnded = true;
  }

  /** Sound that was heard and not sent, in seconds. */
  get behindSeconds() {
    return (this.sound.end - this.#position) / this.rate;
  }

  /** Takes the next piece of the source; it is sent at once where nothing else waits. */
  take(samples, now) {
    const isLevel = this.#position === this.sound.end;
    this.sound.add(samples);
    if (isLevel && this.#mayWrite()) this.#write(now);
  }

  /** The server has said something. */
  hear(now) {
    this.#movedAt = now;
  }

  /** For how many seconds the server has taken and said nothing, though there is something to send or `stop` to answer. */
  stillSeconds(now) {
    return this.behindSeconds > 0 || this.#isStopSent ? (now - this.#movedAt) / 1000 : 0;
  }

  /** Sends what is due; to be called every 100 ms or so. */
  tick(now) {
    let due = ((now - this.#tickedAt) / 1000) * CATCH_UP_SPEED * this.rate;
    this.#tickedAt = now;
    while (due > 0 && this.#mayWrite() && this.behindSeconds > 0) due -= this.#write(now);
    if (this.#isEnded && !this.#isStopSent && this.#socket && this.behindSeconds === 0) {
      this.#isStopSent = true;
      this.#movedAt = now;
      this.#socket.send(JSON.stringify({ type: "stop" }));
    }
  }

  #mayWrite() {
    return this.#socket !== null && this.#socket.bufferedAmount <= MAX_BUFFERED_SECONDS * 2 * this.rate;
  }

  #write(now) {
    const samples = this.sound.at(this.#position);
    this.#advance(this.#position + samples.length);
    this.#movedAt = now;
    this.#socket.send(toInt16(samples));
    return samples.length;
  }

  #advance(position) {
    this.#position = position;
    this.sound.hold(position);
  }
}
