// What was sent, as a picture: a column every 40 ms, rows on the mel scale up to 8 kHz, which is what models of 16 kHz hear.

import { writeOutlined } from "./text.js";

const ROWS = 96;
const MARKS_HZ = [250, 1000, 2000, 4000];
const COLUMNS_PER_SECOND = 25;
const KEPT_COLUMNS = 30 * 60 * COLUMNS_PER_SECOND;
const LOWEST_HZ = 50;
const HIGHEST_HZ = 8000;
const FLOOR_DB = -95;
const CEILING_DB = -25;

const toMel = (hz) => 2595 * Math.log10(1 + hz / 700);
const toHz = (mel) => 700 * (10 ** (mel / 2595) - 1);

/** In-place radix-2 transform of `real` and `imag`, whose length is a power of two. */
export function transform(real, imag) {
  const size = real.length;
  for (let index = 1, mirrored = 0; index < size; index++) {
    let bit = size >> 1;
    for (; mirrored & bit; bit >>= 1) mirrored ^= bit;
    mirrored ^= bit;
    if (index < mirrored) {
      [real[index], real[mirrored]] = [real[mirrored], real[index]];
      [imag[index], imag[mirrored]] = [imag[mirrored], imag[index]];
    }
  }
  for (let span = 2; span <= size; span *= 2) {
    const half = span / 2;
    for (let k = 0; k < half; k++) {
      const [cos, sin] = [Math.cos((2 * Math.PI * k) / span), -Math.sin((2 * Math.PI * k) / span)];
      for (let low = k; low < size; low += span) {
        const high = low + half;
        const [re, im] = [real[high] * cos - imag[high] * sin, real[high] * sin + imag[high] * cos];
        [real[high], imag[high]] = [real[low] - re, imag[low] - im];
        real[low] += re;
        imag[low] += im;
      }
    }
  }
}

export class Spectrogram {
  #columns = new Array(KEPT_COLUMNS);
  #stamps = new Int32Array(KEPT_COLUMNS).fill(-1);
  #picture = document.createElement("canvas");
  #next = 0;

  constructor(sampleRate) {
    this.rate = sampleRate;
    const size = 2 ** Math.ceil(Math.log2(sampleRate * 0.03));
    this.recent = new Float32Array(size);
    this.real = new Float64Array(size);
    this.imag = new Float64Array(size);
    this.hann = Float64Array.from({ length: size }, (_, index) => 0.5 - 0.5 * Math.cos((2 * Math.PI * index) / size));
    [this.low, this.high] = [toMel(LOWEST_HZ), toMel(Math.min(HIGHEST_HZ, sampleRate / 2))];
    const toBin = (row) => (toHz(this.low + ((this.high - this.low) * row) / ROWS) * size) / sampleRate;
    this.borders = Array.from({ length: ROWS + 1 }, (_, row) => toBin(row));
  }

  /** Takes mono samples that begin at a time in seconds. */
  add(samples, time) {
    const first = Math.round(time * this.rate);
    const hop = this.rate / COLUMNS_PER_SECOND;
    let taken = 0;
    let column = Math.ceil(first / hop);
    for (; Math.round(column * hop) < first + samples.length; column++) {
      const upTo = Math.round(column * hop) - first;
      this.#remember(samples.subarray(taken, upTo));
      taken = upTo;
      this.#columns[column % KEPT_COLUMNS] = this.#column();
      this.#stamps[column % KEPT_COLUMNS] = column;
    }
    this.#remember(samples.subarray(taken));
    this.#next = column;
  }

  #remember(samples) {
    const size = this.recent.length;
    if (samples.length >= size) this.recent.set(samples.subarray(samples.length - size));
    else {
      this.recent.copyWithin(0, samples.length);
      this.recent.set(samples, size - samples.length);
    }
  }

  #column() {
    const size = this.recent.length;
    for (let index = 0; index < size; index++) this.real[index] = this.recent[index] * this.hann[index];
    this.imag.fill(0);
    transform(this.real, this.imag);
    const values = new Uint8Array(ROWS);
    for (let row = 0; row < ROWS; row++) {
      const first = Math.round(this.borders[row]);
      const last = Math.max(first + 1, Math.round(this.borders[row + 1]));
      let power = 0;
      for (let bin = first; bin < last; bin++) power = Math.max(power, this.real[bin] ** 2 + this.imag[bin] ** 2);
      const decibels = 10 * Math.log10((16 * power) / size ** 2 + 1e-12);
      values[row] = Math.max(0, Math.min(255, (255 * (decibels - FLOOR_DB)) / (CEILING_DB - FLOOR_DB)));
    }
    return values;
  }

  /** Draws the stretch [from, to] seconds over the whole canvas; `palette` has 256 colours as [r, g, b]. */
  draw(canvas, from, to, palette) {
    const first = Math.floor(from * COLUMNS_PER_SECOND);
    const width = Math.ceil(to * COLUMNS_PER_SECOND) - first;
    const picture = this.#picture;
    [picture.width, picture.height] = [width, ROWS];
    const pen = picture.getContext("2d");
    const image = pen.createImageData(width, ROWS);
    for (let x = 0; x < width; x++) {
      const place = (((first + x) % KEPT_COLUMNS) + KEPT_COLUMNS) % KEPT_COLUMNS;
      if (this.#stamps[place] !== first + x || first + x >= this.#next) continue;
      for (let row = 0; row < ROWS; row++) {
        const [red, green, blue] = palette[this.#columns[place][row]];
        image.data.set([red, green, blue, 255], 4 * ((ROWS - 1 - row) * width + x));
      }
    }
    pen.putImageData(image, 0, 0);
    const target = canvas.getContext("2d");
    const scale = canvas.width / (to - from);
    target.drawImage(picture, (first / COLUMNS_PER_SECOND - from) * scale, 0, (width / COLUMNS_PER_SECOND) * scale, canvas.height);
  }

  /** Writes some frequencies at the right border. `colours` and `ratio` are as for the timeline. */
  drawAxis(canvas, colours, ratio) {
    const pen = canvas.getContext("2d");
    pen.save();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const [width, height] = [canvas.width / ratio, canvas.height / ratio];
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const hz of MARKS_HZ.filter((mark) => toMel(mark) < this.high)) {
      const y = height * (1 - (toMel(hz) - this.low) / (this.high - this.low));
      writeOutlined(pen, hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`, width - 6, y, colours);
    }
    pen.restore();
  }
}

const DARK = [[10, 12, 20], [38, 32, 84], [118, 40, 120], [222, 82, 84], [250, 170, 70], [255, 250, 200]];
const LIGHT = [[250, 250, 252], [205, 222, 240], [120, 170, 215], [60, 105, 180], [50, 50, 120], [20, 12, 50]];

/** 256 colours from quiet to loud. */
export function makePalette(isDark) {
  const stops = isDark ? DARK : LIGHT;
  return Array.from({ length: 256 }, (_, value) => {
    const place = (value / 255) * (stops.length - 1);
    const index = Math.min(stops.length - 2, Math.floor(place));
    return stops[index].map((from, part) => Math.round(from + (stops[index + 1][part] - from) * (place - index)));
  });
}
