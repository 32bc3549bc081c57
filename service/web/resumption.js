// What is decided when a connection breaks: whether and when to come back, how to go on, and what is said of it.

import { formatTime, sentence } from "./text.js";

/** The server keeps a stream for so long by default: until then it is asked for often. */
export const RESUME_SECONDS = 30;
const FIRST_PAUSE_SECONDS = 0.5;
const PAUSE_SECONDS = 4;
const LATE_PAUSE_SECONDS = 15;
/** What another connection would end with in the same way, unless the error says otherwise. */
const FINAL_CODES = new Set([1003, 1007, 1009, 4400, 4401, 4403, 4413, 4415, 4429]);
/** Nobody waits before a page for longer: a day's quota that is spent ends the stream. */
const LONGEST_WAIT_SECONDS = 300;

/** Whether a close, or an answer that is no success, ends the stream for good; `error` is the fatal one before it, or null. */
export function isFinal(code, error) {
  if (error?.retry_after_s > LONGEST_WAIT_SECONDS) return true;
  return (FINAL_CODES.has(code) || (code >= 400 && code < 500)) && !error?.retryable;
}

/** Why a stream that was ready broke. */
export function whyLost(code, error) {
  if (error) return sentence(error.message);
  return code === 1001 ? "The server went away." : "The connection was lost.";
}

/** How long to wait before the next attempt; `chance` in [0, 1) keeps pages that failed together from coming together. */
export function pauseSeconds(failures, brokenSeconds, retryAfterSeconds, chance) {
  const longest = brokenSeconds < RESUME_SECONDS ? PAUSE_SECONDS : LATE_PAUSE_SECONDS;
  const own = Math.min(longest, FIRST_PAUSE_SECONDS * 2 ** failures) * (0.75 + chance / 2);
  return Math.max(own, retryAfterSeconds ?? 0);
}

/** Says how a stream goes on: `lost` are the stretches that nobody has any more, as [from, to] in seconds of the page. */
export function describeReturn(brokenSeconds, isNew, lost) {
  const stretches = lost.map(([from, to]) => `${formatTime(from, 1)} to ${formatTime(to, 1)}`).join(", ");
  const outcome = stretches ? `The sound from ${stretches} is lost.` : "No sound is lost.";
  const how = isNew ? "a new stream goes on, for the server does not have the old one any more" : "the stream goes on";
  return `After a break of ${brokenSeconds.toFixed(1)} s ${how}. ${outcome}`;
}
