// Texts, on the page and in its pictures.

/** 75.25 as 1:15.25. */
export function formatTime(seconds, digits = 2) {
  const rounded = Number(seconds.toFixed(digits));
  const minutes = Math.floor(rounded / 60);
  return `${minutes}:${(rounded - 60 * minutes).toFixed(digits).padStart(digits ? digits + 3 : 2, "0")}`;
}

/** The server's messages begin small and have no full stop. */
export function sentence(message) {
  return `${message[0].toUpperCase()}${message.slice(1)}${message.endsWith(".") ? "" : "."}`;
}

/** Writes into a picture what can be read on any ground. `colours` has {text, page}; the font and the alignment are the pen's. */
export function writeOutlined(pen, text, x, y, colours) {
  pen.lineWidth = 3;
  pen.lineJoin = "round";
  pen.strokeStyle = colours.page;
  pen.strokeText(text, x, y);
  pen.fillStyle = colours.text;
  pen.fillText(text, x, y);
}
