// The table of events, newest first, and what a screen reader is told of them.

import { formatTime } from "./text.js";

const SHOWN = 200;
const ANNOUNCED_AT_ONCE = 3;

export class EventList {
  #announced = new Set();

  constructor(body, count, announcer) {
    [this.body, this.count, this.announcer] = [body, count, announcer];
  }

  /** Forgets what was announced. */
  clear() {
    this.#announced.clear();
    this.announcer.textContent = "";
    this.show([], 1, 0, false);
  }

  /** Shows events; one that reaches `end` (in samples) may still go on while `isLive`. */
  show(events, rate, end, isLive) {
    this.count.textContent = events.length ? `(${events.length})` : "";
    const newest = events.slice(-SHOWN).reverse();
    this.body.replaceChildren(...(newest.length ? newest.map((event) => row(event, rate, isLive && event.offset >= end)) : [emptyRow()]));
    if (isLive) this.#announce(events, rate);
  }

  /** Each event once, by its label and its onset to the second, which later windows may still move a little. */
  #announce(events, rate) {
    const fresh = [];
    for (const { label, onset } of events) {
      const second = Math.round(onset / rate);
      if ([-1, 0, 1].some((near) => this.#announced.has(`${label} ${second + near}`))) continue;
      this.#announced.add(`${label} ${second}`);
      fresh.push(`${label} at ${formatTime(onset / rate, 0)}`);
    }
    if (!fresh.length) return;
    const more = fresh.length - ANNOUNCED_AT_ONCE;
    this.announcer.textContent = fresh.slice(0, ANNOUNCED_AT_ONCE).join(", ") + (more > 0 ? ` and ${more} more` : "");
  }
}

function row(event, rate, mayGoOn) {
  const line = document.createElement("tr");
  const offset = formatTime(event.offset / rate) + (mayGoOn ? "…" : "");
  for (const text of [event.label, formatTime(event.onset / rate), offset, event.peak.toFixed(2)]) {
    line.insertCell().textContent = text;
  }
  return line;
}

function emptyRow() {
  const line = document.createElement("tr");
  const cell = line.insertCell();
  cell.colSpan = 4;
  cell.className = "empty";
  cell.textContent = "No events yet.";
  return line;
}
