// Where the server's stream lies on the page's time axis, what of it has results, and where a new one takes its place.
//
// Positions are samples from the source's first one; the server tells seconds from the first sample of its stream.

export class Axis {
  /** Where the server's stream began. */
  base = 0;
  /** Up to where there are results, or will never be any. */
  answered = 0;
  #whole = 0;
  #grid = null;

  /** `rate`: of the source, in samples a second. */
  constructor(rate) {
    this.rate = rate;
  }

  /** Takes the server's seconds of window and hop. */
  configure({ window, hop }) {
    this.#grid = { window: window * this.rate, hop: hop * this.rate };
  }

  /** Returns where a second of the stream lies. */
  at(seconds) {
    return this.base + Math.round(seconds * this.rate);
  }

  /** Takes a window's end; returns whether it is news: a new stream is told anew of sound that it begins with. */
  answer(end) {
    const isNews = this.at(end) > this.answered;
    if (isNews) this.answered = this.at(end);
    return isNews;
  }

  /** Takes what the server has dropped; returns how many seconds of it are news. */
  drop(from, to) {
    const [first, end] = [Math.max(this.answered, this.at(from)), this.at(to)];
    this.answered = Math.max(this.answered, end);
    return Math.max(0, end - first) / this.rate;
  }

  /** The stream goes on without these stretches of its seconds; returns them as [from, to] in seconds of the page. */
  miss(stretches) {
    const lost = stretches.map((stretch) => stretch.map((seconds) => this.at(seconds)));
    for (const [, to] of lost) this.#whole = to;
    return this.#toSeconds(lost);
  }

  /**
   * A new stream takes the place of the one before: `base` is where. `kept`: from where on sound can be sent. Returns what is
   * lost, as [from, to] in seconds of the page.
   *
   * Nothing that can still be scored is left out, and the new windows lie where the old ones would: the first one that is news
   * is as full as it would have been, for which sound is sent again that has results already.
   */
  beginAnew(kept) {
    const earliest = Math.max(kept, this.#whole);
    const answered = this.answered;
    this.base = this.#whole = earliest >= answered ? earliest : this.#warmUp(earliest);
    this.answered = Math.max(answered, this.base);
    return this.base > answered ? this.#toSeconds([[answered, this.base]]) : [];
  }

  #warmUp(earliest) {
    const { window, hop } = this.#grid;
    const onGrid = (round, position) => this.base + round((position - this.base) / hop) * hop;
    const wanted = onGrid((hops) => Math.floor(hops + 1e-6), this.answered + hop - window);
    const place = wanted >= earliest ? wanted : onGrid((hops) => Math.ceil(hops - 1e-6), earliest);
    return Math.round(Math.min(place, this.answered));
  }

  #toSeconds(stretches) {
    return stretches.map((stretch) => stretch.map((position) => position / this.rate));
  }
}
