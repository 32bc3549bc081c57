// Stretches of sound that is lost, in seconds: in order, no two of them touch.

export class Gaps {
  /** [{from, to}] */
  stretches = [];

  /** Adds a stretch, and returns how many seconds of it are new. */
  add(from, to) {
    const before = this.seconds;
    const merged = { from, to };
    const apart = [];
    for (const stretch of this.stretches) {
      if (stretch.to < from || stretch.from > to) apart.push(stretch);
      else {
        merged.from = Math.min(merged.from, stretch.from);
        merged.to = Math.max(merged.to, stretch.to);
      }
    }
    this.stretches = [...apart, merged].sort((a, b) => a.from - b.from);
    return this.seconds - before;
  }

  get seconds() {
    return this.stretches.reduce((total, { from, to }) => total + to - from, 0);
  }
}
