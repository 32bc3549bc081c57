// Where sound comes from. A source has `sampleRate`, `canWait`, `start(onPiece, onEnd)` and `stop()`. One that can wait has
// `hold()`, `isHeld` and `go(position)`, too. Pieces are mono Float32Arrays of about 100 ms, in real time.

const PIECE_SECONDS = 0.1;
const OTHER_RATE = 48_000;

export class Microphone {
  canWait = false;
  name = "microphone";

  #context;
  #media;

  /** Asks for the microphone. Throws an Error whose message says what is the matter. */
  static async open() {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
      throw new Error("Browsers give the microphone only to pages from https or localhost. A file works here, too.");
    }
    const source = new Microphone();
    const asked = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      source.#media = await navigator.mediaDevices.getUserMedia({ audio: asked });
    } catch (error) {
      const reasons = {
        NotAllowedError: "The browser did not allow the microphone.",
        NotFoundError: "There is no microphone.",
        NotReadableError: "The microphone is used by something else.",
      };
      throw new Error(reasons[error.name] ?? `The microphone cannot be opened: ${error.message}`);
    }
    source.#context = new AudioContext();
    try {
      await source.#context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
      await source.#context.resume();
    } catch (error) {
      source.stop(); // or the browser would go on showing that it is listened to
      throw new Error(`The microphone cannot be read: ${error.message}`);
    }
    source.sampleRate = source.#context.sampleRate;
    return source;
  }

  start(onPiece, onEnd) {
    const node = new AudioWorkletNode(this.#context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onPiece(data);
    this.#context.createMediaStreamSource(this.#media).connect(node);
    this.#media.getTracks()[0].addEventListener("ended", onEnd);
  }

  stop() {
    for (const track of this.#media.getTracks()) track.stop();
    if (this.#context.state !== "closed") this.#context.close();
  }
}

export class SoundFile {
  canWait = true;

  #samples;
  #position = 0;
  #timer = null;
  #startedAt = 0;
  #onPiece = () => {};
  #onEnd = () => {};

  constructor(name, samples, sampleRate) {
    this.name = name;
    this.sampleRate = sampleRate;
    this.#samples = samples;
  }

  /** Decodes a File. Throws an Error whose message says what is the matter. */
  static async open(file) {
    const bytes = await file.arrayBuffer();
    const sampleRate = rateOf(new DataView(bytes)) ?? OTHER_RATE;
    let decoded;
    try {
      decoded = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes);
    } catch {
      throw new Error(`This browser cannot read ${file.name} as sound. The REST interface reads more formats.`);
    }
    const samples = new Float32Array(decoded.length);
    for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
      decoded.getChannelData(channel).forEach((value, index) => { samples[index] += value / decoded.numberOfChannels; });
    }
    return new SoundFile(file.name, samples, sampleRate);
  }

  get duration() {
    return this.#samples.length / this.sampleRate;
  }

  start(onPiece, onEnd) {
    this.#onPiece = onPiece;
    this.#onEnd = onEnd;
    this.go(0);
  }

  /** Goes on from a position in seconds. */
  go(position) {
    this.hold();
    this.#position = Math.round(position * this.sampleRate);
    this.#startedAt = performance.now() - position * 1000;
    // Tabs in the background get a tick a second: each sends all that is due.
    this.#timer = setInterval(() => this.#sendDue(), PIECE_SECONDS * 1000);
  }

  get isHeld() {
    return this.#timer === null;
  }

  /** Sends nothing until `go`. */
  hold() {
    clearInterval(this.#timer);
    this.#timer = null;
  }

  stop() {
    this.hold();
  }

  #sendDue() {
    const due = Math.floor(((performance.now() - this.#startedAt) / 1000) * this.sampleRate);
    const size = Math.round(PIECE_SECONDS * this.sampleRate);
    const end = this.#samples.length;
    while (this.#timer !== null && this.#position < end && Math.min(this.#position + size, end) <= due) {
      const piece = this.#samples.slice(this.#position, this.#position + size);
      this.#position += piece.length;
      this.#onPiece(piece);
    }
    if (this.#timer !== null && this.#position >= end) {
      this.hold();
      this.#onEnd();
    }
  }
}

/** Returns the sample rate in a WAV or FLAC header, so that decoding resamples nothing; null for other files. */
function rateOf(view) {
  const isRate = (rate) => (rate >= 8000 && rate <= 96_000 ? rate : null);
  if (view.byteLength < 44) return null;
  const tag = (at) => String.fromCharCode(...[0, 1, 2, 3].map((index) => view.getUint8(at + index)));
  if (tag(0) === "fLaC") return isRate(view.getUint32(18) >>> 12);
  if (tag(0) !== "RIFF" || tag(8) !== "WAVE") return null;
  for (let at = 12; at + 16 <= view.byteLength; at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) % 2)) {
    if (tag(at) === "fmt ") return isRate(view.getUint32(at + 12, true));
  }
  return null;
}

/** Returns samples as s16le bytes, rounded and clipped. A browser of a big-endian machine does not exist. */
export function toInt16(samples) {
  return Int16Array.from(samples, (value) => Math.max(-32_768, Math.min(32_767, Math.round(value * 32_768)))).buffer;
}
