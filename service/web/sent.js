// The last sound of a source, by its place: what is still to be sent, and what may have to be sent again.
//
// Positions are samples from the source's first one. Sound is never cut out of the middle: what is kept is one stretch.

export class SentSound {
  #pieces = [];
  #end = 0;
  #held = Infinity;

  /** `keepSamples`: how much is kept at least, once there is so much. */
  constructor(keepSamples) {
    this.keepSamples = keepSamples;
  }

  /** Where the sound that is kept begins. */
  get first() {
    return this.#pieces.length ? this.#pieces[0].start : this.#end;
  }

  /** Where the sound that was heard ends. */
  get end() {
    return this.#end;
  }

  /** Takes the next piece of the source, and forgets what is too old. */
  add(samples) {
    this.#pieces.push({ start: this.#end, samples });
    this.#end += samples.length;
    this.forgetBefore(Math.min(this.#end - this.keepSamples, this.#held));
  }

  /** From this position on nothing is forgotten for its age: it is to be sent yet. Until another one is held, or Infinity. */
  hold(position) {
    this.#held = position;
  }

  /** Forgets the pieces that end before a position. */
  forgetBefore(position) {
    const isOld = ({ start, samples }) => start + samples.length <= position;
    while (this.#pieces.length && isOld(this.#pieces[0])) this.#pieces.shift();
  }

  /** Returns what is kept of one piece from a position on; null where that is forgotten, or not heard yet. */
  at(position) {
    if (position < this.first || position >= this.#end) return null;
    let [low, high] = [0, this.#pieces.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#pieces[middle].start <= position) low = middle;
      else high = middle - 1;
    }
    const { start, samples } = this.#pieces[low];
    return samples.subarray(position - start);
  }
}
