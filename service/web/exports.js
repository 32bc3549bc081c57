// What can be saved and copied.

const seconds = (samples, rate) => Number((samples / rate).toFixed(6)).toString();
const score = (value) => Number(value.toPrecision(7)).toString();

/** A text as a field of a table with any separator: in quotes where it would end one. */
function field(text) {
  return /[",\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function lines(rows, separator) {
  return rows.map((row) => row.join(separator) + "\n").join("");
}

/** One line a window: start, end, then a column a label. RFC 4180, with LF. */
export function scoresCsv(history) {
  const rows = [["start", "end", ...history.labels.map(field)]];
  for (const window of history.windows) {
    const times = [window.start, window.end].map((position) => seconds(position, history.sampleRate));
    rows.push([...times, ...Array.from(window.scores, score)]);
  }
  return lines(rows, ",");
}

/** One line an event. */
export function eventsCsv(events, rate) {
  const rows = [["label", "onset", "offset", "peak"]];
  for (const event of events) {
    rows.push([field(event.label), seconds(event.onset, rate), seconds(event.offset, rate), score(event.peak)]);
  }
  return lines(rows, ",");
}

/** A label track for Audacity's File > Import > Labels. */
export function audacityLabels(events, rate) {
  return lines(events.map((event) => [seconds(event.onset, rate), seconds(event.offset, rate), event.label]), "\t");
}

/** s(t) as sed_scores_eval reads it, with pandas: onset, offset, a column a class; each row begins where the one before ended. */
export function sedScoresTsv(history) {
  const { borders, rows } = history.segments();
  const table = [["onset", "offset", ...history.labels.map(field)]];
  rows.forEach((means, index) => {
    const times = [borders[index], borders[index + 1]].map((position) => seconds(position, history.sampleRate));
    table.push([...times, ...Array.from(means, score)]);
  });
  return lines(table, "\t");
}

/** The `events` object of the stream and of REST, readable. */
export function eventsJson(config) {
  return JSON.stringify(config, null, 2);
}

/** A line for a shell or a .env file: the apostrophes of label names are escaped, so that the quotes hold in both. */
export function eventsSetting(config) {
  return `SONOTAG_EVENTS='${JSON.stringify(config).replaceAll("'", "\\u0027")}'`;
}

/** Lets the browser save a text. */
export function saveText(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** Copies a text; pages that are not from https or localhost have no clipboard object. */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error("the browser does not let this page copy");
}
