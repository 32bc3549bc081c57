// The picture: spectrogram and timeline on one time axis, and the strongest labels of the last window as text.

import { makePalette, Spectrogram } from "./spectrogram.js";
import { Timeline } from "./timeline.js";

const SPAN_SECONDS = 20;
const NARROW_SPAN_SECONDS = 15;
const FRAME_MS = 66;
const CALM_FRAME_MS = 1000;
const NOW_COUNT = 6;

export class View {
  #spectrogram = null;
  #timeline = new Timeline();
  #nothing;
  #history = null;
  #events = [];
  #end = 0;
  #drawnAt = 0;
  #isDue = false;

  constructor(page) {
    this.page = page;
    this.#nothing = page.now.firstElementChild;
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.dark.addEventListener("change", () => this.#takeColours());
    new ResizeObserver(() => this.refresh()).observe(page.timeline);
    page.back.addEventListener("input", () => this.refresh());
    this.#takeColours();
  }

  /** Begins a new picture. */
  begin(sampleRate, history) {
    this.page.now.replaceChildren(this.#nothing.cloneNode(true));
    this.#spectrogram = new Spectrogram(sampleRate);
    this.#timeline.clear();
    this.#history = history;
    this.#events = [];
    this.#end = 0;
    this.page.back.value = 0;
    this.refresh();
  }

  addSound(samples, time) {
    this.#spectrogram.add(samples, time);
    this.#end = Math.max(this.#end, time + samples.length / this.#spectrogram.rate);
    this.refresh();
  }

  /** Takes what the detector found in the scores. */
  setEvents(events) {
    this.#events = events;
    this.refresh();
  }

  /** Writes the strongest labels of the last window. */
  showNow() {
    this.page.now.replaceChildren(...this.#history.strongest(NOW_COUNT).map(({ label, score }) => {
      const item = document.createElement("li");
      const value = document.createElement("span");
      value.textContent = score.toFixed(2);
      item.append(label, value);
      return item;
    }));
  }

  /** Draws soon: so often that it looks smooth, or once a second for those who want no motion. */
  refresh() {
    if (this.#isDue) return;
    this.#isDue = true;
    const wait = this.#drawnAt + (this.calm.matches ? CALM_FRAME_MS : FRAME_MS) - performance.now();
    setTimeout(() => requestAnimationFrame(() => this.#draw()), Math.max(0, wait));
  }

  #takeColours() {
    const style = getComputedStyle(document.documentElement);
    const names = { text: "--text", muted: "--muted", bar: "--bar", event: "--event", page: "--card" };
    this.colours = Object.fromEntries(Object.entries(names).map(([key, name]) => [key, style.getPropertyValue(name).trim()]));
    this.palette = makePalette(this.dark.matches);
    this.refresh();
  }

  #draw() {
    this.#isDue = false;
    this.#drawnAt = performance.now();
    const { spectrogram, timeline, back } = this.page;
    const isNarrow = timeline.clientWidth < 600;
    const [span, rows] = isNarrow ? [NARROW_SPAN_SECONDS, 5] : [SPAN_SECONDS, 8];
    const ratio = window.devicePixelRatio || 1;
    timeline.style.height = `${Timeline.height(rows)}px`;
    fit(spectrogram, ratio);
    fit(timeline, ratio);
    back.min = Math.min(0, Math.floor(2 * (span - this.#end)) / 2);
    this.page.looking.hidden = back.min === "0";
    const ago = -Number(back.value);
    back.setAttribute("aria-valuetext", ago ? `${ago} seconds ago` : "now");
    const to = Math.max(span, this.#end - ago);
    const view = { from: to - span, to };
    const [red, green, blue] = this.palette[0];
    const pen = spectrogram.getContext("2d");
    pen.fillStyle = `rgb(${red} ${green} ${blue})`;
    pen.fillRect(0, 0, spectrogram.width, spectrogram.height);
    this.#spectrogram?.draw(spectrogram, view.from, view.to, this.palette);
    this.#spectrogram?.drawAxis(spectrogram, this.colours, ratio);
    this.#timeline.draw(timeline, this.#history, this.#events, view, rows, this.colours, ratio);
  }
}

function fit(canvas, ratio) {
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}
