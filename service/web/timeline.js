// The strongest labels of the stretch that is shown: a row each, filled as high as s(t), with its events as bars below.

import { segmentBorders, segmentCovers, segmentMeans } from "./detector.js";
import { formatTime, writeOutlined } from "./text.js";

const ROW_HEIGHT = 34;
const TEXT_HEIGHT = 15;
const AXIS_HEIGHT = 22;

export class Timeline {
  #rows = [];

  /** Forgets which labels were shown. */
  clear() {
    this.#rows = [];
  }

  /** How high the canvas must be for so many rows, in CSS pixels. */
  static height(count) {
    return count * ROW_HEIGHT + AXIS_HEIGHT;
  }

  /**
   * Draws over the whole canvas. `view` is {from, to} in seconds, `events` are the detector's, `colours` {text, muted, bar,
   * event, page}, `ratio` the device's pixels to one of CSS.
   */
  draw(canvas, history, events, view, count, colours, ratio) {
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const [width, height] = [canvas.width / ratio, canvas.height / ratio];
    pen.clearRect(0, 0, width, height);
    const toX = (seconds) => ((seconds - view.from) / (view.to - view.from)) * width;
    this.#drawAxis(pen, view, toX, height, colours);
    if (!history) return;
    this.#drawGaps(pen, history.gaps.stretches, view, toX, height, colours);
    const windows = history.within(view.from, view.to);
    this.#choose(windows, history.labels.length, count);
    const borders = segmentBorders(windows);
    const covers = segmentCovers(windows, borders);
    const xs = Array.from(borders, (position) => toX(position / history.sampleRate));
    this.#rows.forEach((id, row) => {
      const bottom = (row + 1) * ROW_HEIGHT - 7;
      const means = segmentMeans(windows, covers, id);
      pen.fillStyle = colours.bar;
      means.forEach((mean, index) => {
        const high = mean * (ROW_HEIGHT - 10);
        pen.fillRect(xs[index], bottom - high, xs[index + 1] - xs[index] + 0.4, high);
      });
      pen.fillStyle = colours.event;
      for (const event of events) {
        if (event.id !== id) continue;
        const [left, right] = [event.onset, event.offset].map((position) => toX(position / history.sampleRate));
        pen.fillRect(left, bottom + 1, Math.max(2, right - left - 1), 4);
      }
      pen.font = "12px system-ui, sans-serif";
      writeOutlined(pen, history.labels[id], 6, row * ROW_HEIGHT + TEXT_HEIGHT, colours);
    });
  }

  /** Keeps labels in their rows for as long as they are among the strongest. */
  #choose(windows, numLabels, count) {
    const peaks = new Float32Array(numLabels);
    for (const { scores } of windows) for (let id = 0; id < numLabels; id++) if (scores[id] > peaks[id]) peaks[id] = scores[id];
    const strongest = [...peaks.keys()].sort((a, b) => peaks[b] - peaks[a]).slice(0, windows.length ? count : 0);
    const fresh = strongest.filter((id) => !this.#rows.includes(id));
    const kept = this.#rows.map((id) => (strongest.includes(id) ? id : fresh.shift()));
    this.#rows = [...kept, ...fresh].filter((id) => id !== undefined);
  }

  #drawGaps(pen, gaps, view, toX, height, colours) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colours.muted;
    for (const { from, to } of gaps) {
      if (to <= view.from || from >= view.to) continue;
      const left = Math.max(0, toX(from));
      pen.globalAlpha = 0.2;
      pen.fillRect(left, 0, Math.max(2, toX(to) - left), height - AXIS_HEIGHT + 4);
      pen.globalAlpha = 1;
      pen.fillText("lost", left + 3, height - AXIS_HEIGHT - 2);
    }
  }

  #drawAxis(pen, { from, to }, toX, height, colours) {
    const step = [1, 2, 5, 10, 20, 30, 60].find((seconds) => toX(from + seconds) >= 56) ?? 60;
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colours.muted;
    for (let tick = Math.max(0, Math.ceil(from / step) * step); tick <= to; tick += step) {
      pen.globalAlpha = 0.3;
      pen.fillRect(toX(tick), 0, 1, height - AXIS_HEIGHT + 4);
      pen.globalAlpha = 1;
      pen.fillText(formatTime(tick, 0), toX(tick) + 3, height - 6);
    }
  }
}
