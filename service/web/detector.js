// Events out of window scores: the law of service/postprocess/events.py, for scores that are all there.
//
// Let s(t), for one label, be the mean of the scores of the windows with start <= t < end, each window once, and 0 where there
// is none. A label is active from where s(t) first reaches the onset threshold until s(t) falls below the offset threshold. An
// event is an active stretch; stretches at most max_gap apart are one event; an event shorter than min_duration is none.
//
// Positions are samples. Both detectors pass tests/vectors/events.

export const DEFAULT_EVENTS = Object.freeze({
  onset_threshold: 0.5, offset_threshold: 0.35, min_duration: 0.2, max_gap: 0.3, per_label: Object.freeze({}),
});

/** As Python rounds, half to even, so that the same seconds are the same samples. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Returns what holds for each label, in samples: a function of the label's id. Keys of per_label are names or ids. */
export function compileThresholds(config, labels, sampleRate) {
  const compile = (own) => {
    const merged = { ...config, ...Object.fromEntries(Object.entries(own).filter(([, value]) => value != null)) };
    return {
      onset: merged.onset_threshold,
      offset: merged.offset_threshold,
      minDuration: roundHalfEven(merged.min_duration * sampleRate),
      maxGap: roundHalfEven(merged.max_gap * sampleRate),
    };
  };
  const ids = new Map(labels.map((label, id) => [label.toLowerCase(), id]));
  const common = compile({});
  const single = new Map();
  for (const [key, own] of Object.entries(config.per_label ?? {})) {
    const id = ids.get(key.toLowerCase()) ?? Number(key);
    single.set(id, compile(own));
  }
  return (id) => single.get(id) ?? common;
}

/** Returns the borders between which s(t) is constant, from the windows' starts and ends: rising positions. */
export function segmentBorders(windows) {
  const borders = new Set();
  for (const { start, end } of windows) borders.add(start).add(end);
  return Float64Array.from(borders).sort();
}

/**
 * Returns for each segment the range of windows that may cover it, as [first, last) indices. Windows come in the order of their
 * ends; starts fall only where a shorter window follows a flush, so that a range may hold windows that do not cover it.
 */
export function segmentCovers(windows, borders) {
  const covers = [];
  let longest = 0;
  for (const { start, end } of windows) longest = Math.max(longest, end - start);
  let first = 0;
  let last = 0;
  for (let index = 0; index + 1 < borders.length; index++) {
    const position = borders[index];
    while (first < windows.length && windows[first].end <= position) first++;
    last = Math.max(last, first);
    while (last < windows.length && windows[last].end <= position + longest) last++;
    const cover = [];
    for (let at = first; at < last; at++) if (windows[at].start <= position) cover.push(at);
    covers.push(cover);
  }
  return covers;
}

/** Returns s(t) of one label on each segment: float64, summed in the windows' order as Python does. */
export function segmentMeans(windows, covers, id) {
  return Float64Array.from(covers, (cover) => {
    let total = 0;
    for (const at of cover) total += windows[at].scores[id];
    return total / Math.max(1, cover.length);
  });
}

/** Returns the events of one label: [{onset, offset, peak}] in samples. */
export function findEvents(borders, means, thresholds) {
  const events = [];
  let open = null;
  let isActive = false;
  for (let index = 0; index < means.length; index++) {
    const score = means[index];
    isActive = score >= (isActive ? Math.min(thresholds.offset, thresholds.onset) : thresholds.onset);
    if (!isActive) continue;
    const start = borders[index];
    if (open && start - open.offset > thresholds.maxGap) {
      events.push(open);
      open = null;
    }
    open ??= { onset: start, offset: start, peak: score };
    open.offset = borders[index + 1];
    open.peak = Math.max(open.peak, score);
  }
  if (open) events.push(open);
  return events.filter((event) => event.offset - event.onset >= thresholds.minDuration);
}

/**
 * Returns the events of all labels, by onset and then id: [{id, label, onset, offset, peak}].
 * `windows` are {start, end, scores}, their ends rising.
 */
export function detectEvents(windows, config, labels, sampleRate) {
  const thresholdsOf = compileThresholds(config, labels, sampleRate);
  const borders = segmentBorders(windows);
  const covers = segmentCovers(windows, borders);
  const found = [];
  for (let id = 0; id < labels.length; id++) {
    const thresholds = thresholdsOf(id);
    // A mean reaches no threshold that no score reaches: of hundreds of labels a few are left.
    if (!windows.some((window) => window.scores[id] >= thresholds.onset)) continue;
    const means = segmentMeans(windows, covers, id);
    for (const event of findEvents(borders, means, thresholds)) found.push({ id, label: labels[id], ...event });
  }
  return found.sort((a, b) => a.onset - b.onset || a.id - b.id);
}
