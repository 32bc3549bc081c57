// The microphone's end in the audio thread: the mean of the channels, posted in pieces of about 100 ms at the context's rate.

const PIECE_SECONDS = 0.1;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(Math.round(sampleRate * PIECE_SECONDS));
    this.filled = 0;
  }

  process([channels]) {
    if (!channels.length) return true;
    for (let index = 0; index < channels[0].length; index++) {
      let total = 0;
      for (const channel of channels) total += channel[index];
      this.piece[this.filled++] = total / channels.length;
      if (this.filled === this.piece.length) {
        this.port.postMessage(this.piece, [this.piece.buffer]);
        this.piece = new Float32Array(Math.round(sampleRate * PIECE_SECONDS));
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
