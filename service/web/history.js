// The scores received so far, whatever connections they came over: windows in samples of the model's rate on the page's time axis.

import { segmentBorders, segmentCovers, segmentMeans } from "./detector.js";
import { Gaps } from "./gaps.js";

// 32 MB of float32: with 521 labels four and a half hours of a window a second.
const MAX_SCORES = 8_000_000;

export class ScoreHistory {
  /** `labels` by id, `sampleRate` in Hz. */
  constructor(labels, sampleRate) {
    this.labels = labels;
    this.sampleRate = sampleRate;
    this.windows = [];
    this.isCut = false;
    /** What was heard and is lost. */
    this.gaps = new Gaps();
    this.ids = new Map(labels.map((label, id) => [label, id]));
  }

  /** Takes a `tags` message whose stream began at `base` seconds of the page's time. */
  add(message, base) {
    const scores = new Float32Array(this.labels.length);
    for (const tag of message.tags) scores[tag.id] = tag.score;
    const shift = Math.round(base * this.sampleRate);
    const start = shift + Math.round(message.start * this.sampleRate);
    const end = shift + Math.round(message.end * this.sampleRate);
    if (end <= this.endSample) return;
    this.windows.push({ start, end, scores });
    if (this.windows.length * this.labels.length > MAX_SCORES) {
      this.windows.shift();
      this.isCut = true;
    }
  }

  get endSample() {
    return this.windows.length ? this.windows[this.windows.length - 1].end : 0;
  }

  get endSeconds() {
    return this.endSample / this.sampleRate;
  }

  /** The newest scores, strongest first: [{id, label, score}]. */
  strongest(count) {
    const last = this.windows[this.windows.length - 1];
    if (!last) return [];
    const order = [...last.scores.keys()].sort((a, b) => last.scores[b] - last.scores[a]).slice(0, count);
    return order.map((id) => ({ id, label: this.labels[id], score: last.scores[id] }));
  }

  /** The windows that touch a stretch, in seconds. */
  within(from, to) {
    const [first, last] = [from * this.sampleRate, to * this.sampleRate];
    const found = [];
    for (let at = this.windows.length - 1; at >= 0 && this.windows[at].end > first; at--) {
      if (this.windows[at].start < last) found.push(this.windows[at]);
    }
    return found.reverse();
  }

  /** s(t) of all labels: {borders, rows}, a row for each segment with a mean for each label. */
  segments() {
    const borders = segmentBorders(this.windows);
    const covers = segmentCovers(this.windows, borders);
    const rows = covers.map(() => new Float64Array(this.labels.length));
    this.labels.forEach((_, id) => {
      segmentMeans(this.windows, covers, id).forEach((mean, index) => { rows[index][id] = mean; });
    });
    return { borders, rows };
  }
}
