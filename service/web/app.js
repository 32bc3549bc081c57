// The page: connects its parts.

import { setKey } from "./access.js";
import { loadLabels, loadModels } from "./catalogue.js";
import { detectEvents } from "./detector.js";
import { EventList } from "./eventlist.js";
import { audacityLabels, copyText, eventsCsv, eventsJson, eventsSetting, saveText, scoresCsv, sedScoresTsv } from "./exports.js";
import { ScoreHistory } from "./history.js";
import { KeyWanted } from "./server.js";
import { Microphone, SoundFile } from "./sources.js";
import { LiveStream } from "./stream.js";
import { formatTime } from "./text.js";
import { View } from "./view.js";
import { Workbench } from "./workbench.js";

const DETECT_MS = 200;
const SHOWN_GAPS = 5;

const page = Object.fromEntries(Array.from(document.querySelectorAll("[id]"), (element) => [element.id, element]));
const view = new View(page);
const list = new EventList(page.events, page.count, page.announcer);
const bench = new Workbench(page.bench, (config) => {
  page.config.textContent = eventsJson(config);
  detectSoon();
});

let models = [];
let stream = null;
let history = null;
let events = [];
let heardSeconds = 0;
let droppedSeconds = 0;
let detection = null;

function say(phase, message) {
  page.status.dataset.phase = phase;
  page.status.textContent = message;
}

/** Says something once: a screen reader would read the same text at every piece of sound. */
function note(text) {
  if (page.note.textContent !== text) page.note.textContent = text;
}

function setBusy(isBusy) {
  for (const name of ["model", "window", "hop", "microphone", "file"]) page[name].disabled = isBusy;
  page.stop.disabled = !isBusy;
}

function detectSoon() {
  detection ??= setTimeout(() => {
    detection = null;
    if (!history) return;
    events = detectEvents(history.windows, bench.config, history.labels, history.sampleRate);
    view.setEvents(events);
    list.show(events, history.sampleRate, history.endSample, stream !== null);
    for (const button of page.save.querySelectorAll("button")) button.disabled = history.windows.length === 0;
  }, DETECT_MS);
}

function chosenModel() {
  return models.find(({ name }) => name === page.model.value);
}

async function takeModel() {
  const model = chosenModel();
  page.window.max = page.window.value = model.window_seconds;
  page.hop.max = model.window_seconds;
  page.hop.value = Math.min(1, model.window_seconds);
  try {
    bench.labels = await loadLabels(model.name);
  } catch (error) {
    say("problem", `The labels of ${model.name} cannot be had: ${error.message}`);
  }
}

function addDropped(seconds) {
  droppedSeconds += seconds;
  page.dropped.textContent = `${droppedSeconds.toFixed(1)} s`;
}

/** Lists the newest stretches that are lost, for as long as the page shows this sound. */
function showGaps() {
  page.gaps.replaceChildren(...history.gaps.stretches.slice(-SHOWN_GAPS).map(({ from, to }) => {
    const item = document.createElement("li");
    item.textContent = `Lost: ${formatTime(from, 1)} to ${formatTime(to, 1)}`;
    return item;
  }));
}

function ended(message) {
  const isProblem = message.startsWith("Ended by");
  stream = null;
  setBusy(false);
  say(isProblem ? "problem" : "ended", message);
  detectSoon();
}

const listener = {
  onState: (phase, message) => (phase === "ended" ? ended(message) : say(phase, message)),
  onReady: ({ configuration }) => {
    if (configuration.events) bench.offer(configuration.events);
  },
  onTags: (message, base) => {
    history.add(message, base);
    // The last window ends behind the sound, with silence.
    page.scored.textContent = formatTime(Math.min(history.endSeconds, heardSeconds), 1);
    page.lag.textContent = `${Math.round(message.lag_ms)} ms`;
    if (history.isCut) note("The first scores are no longer kept.");
    view.showNow();
    detectSoon();
  },
  onPiece: (samples, time) => {
    view.addSound(samples, time);
    heardSeconds = time + samples.length / stream.source.sampleRate;
    page.heard.textContent = formatTime(heardSeconds, 1);
  },
  onLost: (seconds, why) => {
    addDropped(seconds);
    note(`Some sound was not scored: ${why}.`);
  },
  onGap: (from, to) => {
    addDropped(history.gaps.add(from, to));
    showGaps();
    view.refresh();
  },
  onNote: note,
  onKey: askForKey,
};

/** Shows the field for the API key, and resolves when one was given. */
function askForKey(message) {
  page.access.hidden = false;
  page.reason.textContent = message;
  page.key.focus();
  return new Promise((resolve) => {
    page.access.onsubmit = (event) => {
      event.preventDefault();
      setKey(page.key.value.trim());
      page.key.value = "";
      page.access.hidden = true;
      resolve();
    };
  });
}

async function listen(opening) {
  if (stream || !page.setup.reportValidity()) return;
  setBusy(true);
  note("");
  let source;
  let labels;
  const model = chosenModel();
  try {
    labels = await loadLabels(model.name);
    source = await opening();
  } catch (error) {
    setBusy(false);
    say("problem", error.message);
    if (error instanceof KeyWanted) askForKey(error.message);
    return;
  }
  history = new ScoreHistory(labels, model.sample_rate);
  heardSeconds = droppedSeconds = 0;
  addDropped(0);
  showGaps();
  page.heard.textContent = page.scored.textContent = formatTime(0, 1);
  page.lag.textContent = "–";
  list.clear();
  view.begin(source.sampleRate, history);
  // All scores, so that other thresholds need no model.
  const [window, hop] = [page.window.valueAsNumber, page.hop.valueAsNumber];
  stream = new LiveStream(source, { model: model.name, window, hop, top_k: labels.length, threshold: 0 }, listener);
  stream.open();
}

function connectControls() {
  page.setup.addEventListener("submit", (event) => {
    event.preventDefault();
    listen(() => Microphone.open());
  });
  page.stop.addEventListener("click", () => stream?.stop());
  page.model.addEventListener("change", takeModel);
  page.file.addEventListener("change", () => {
    const [file] = page.file.files;
    page.file.value = "";
    if (file) listen(() => SoundFile.open(file));
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    page.drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => page.drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    page.drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file && !page.file.disabled) listen(() => SoundFile.open(file));
  });
  page.save.addEventListener("click", ({ target }) => save(target.dataset.save));
  page.bench.addEventListener("click", ({ target }) => copy(target.dataset.copy));
}

function save(name) {
  const texts = {
    "events.csv": () => [eventsCsv(events, history.sampleRate), "text/csv"],
    "labels.txt": () => [audacityLabels(events, history.sampleRate), "text/plain"],
    "scores.csv": () => [scoresCsv(history), "text/csv"],
    "scores.tsv": () => [sedScoresTsv(history), "text/tab-separated-values"],
  };
  if (texts[name]) saveText(`sonotag-${name}`, ...texts[name]());
}

async function copy(kind) {
  if (!kind) return;
  try {
    await copyText(kind === "json" ? eventsJson(bench.config) : eventsSetting(bench.config));
    page.copied.textContent = "Copied.";
  } catch (error) {
    page.copied.textContent = `Not copied: ${error.message}`;
  }
}

connectControls();
page.config.textContent = eventsJson(bench.config);
models = await loadModels((message) => say("waiting", message), (message) => {
  say("problem", "The server wants an API key.");
  return askForKey(message);
});
page.model.replaceChildren(...models.map(({ name }) => new Option(name, name)));
say("ended", "Ready to listen.");
setBusy(false);
await takeModel();
