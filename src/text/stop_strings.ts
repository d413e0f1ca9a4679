/** Finds stop strings in a text that arrives in pieces, wherever the pieces break.
 *  Always: what was emitted holds no stop string, and is never taken back; of several stops the one that ends first wins,
 *  at the same end the one that begins first (as if the text were tested after each character). */

export interface StopStringsOptions {
  /** The text includes the stop string that ended it. */
  includeStop?: boolean;
  /** A stop that ends within the text of the first `minTokens` pieces does not count. */
  minTokens?: number;
}

export interface StopResult {
  /** Safe to emit now. */
  text: string;
  /** The stop string that ended the text; null while it goes on. */
  stop: string | null;
}

export class StopStrings {
  private readonly matchers: Matcher[];
  private held = "";
  private pieces = 0;
  private stopped: string | null = null;

  constructor(
    stops: readonly string[],
    private readonly options: StopStringsOptions = {},
  ) {
    this.matchers = [...new Set(stops)].filter((stop) => stop !== "").map((stop) => new Matcher(stop));
  }

  /** The text that one token added ("" counts as a token too). Nothing comes after a stop. */
  push(piece: string): StopResult {
    if (this.stopped !== null) return { text: "", stop: this.stopped };
    this.pieces++;
    if (this.matchers.length === 0) return { text: piece, stop: null };
    const heldBefore = this.held.length;
    this.held += piece;
    const counts = this.pieces > (this.options.minTokens ?? 0);
    for (let i = heldBefore; i < this.held.length; i++) {
      const found = this.step(this.held.charCodeAt(i), counts);
      if (found) return this.finish(found, i + 1);
    }
    const keep = Math.max(...this.matchers.map((matcher) => matcher.matched));
    return { text: this.release(this.held.length - keep), stop: null };
  }

  /** The text ended by itself: what was held back. */
  end(): string {
    return this.stopped === null ? this.release(this.held.length) : "";
  }

  /** Advances every matcher by a character; the longest stop that ends here began first. */
  private step(code: number, counts: boolean): string | null {
    let found: string | null = null;
    for (const matcher of this.matchers) {
      if (matcher.step(code) && counts && (found === null || matcher.stop.length > found.length))
        found = matcher.stop;
    }
    return found;
  }

  private finish(stop: string, end: number): StopResult {
    this.stopped = stop;
    const text = this.held.slice(0, this.options.includeStop ? end : end - stop.length);
    this.held = "";
    return { text, stop };
  }

  private release(length: number): string {
    const text = this.held.slice(0, length);
    this.held = this.held.slice(length);
    return text;
  }
}

/** Knuth, Morris and Pratt: how much of the stop's beginning stands at the end of the text. */
class Matcher {
  matched = 0;
  private readonly failure: Int32Array;

  constructor(readonly stop: string) {
    this.failure = new Int32Array(stop.length + 1);
    for (let i = 1, k = 0; i < stop.length; i++) {
      while (k > 0 && stop.charCodeAt(i) !== stop.charCodeAt(k)) k = this.failure[k]!;
      if (stop.charCodeAt(i) === stop.charCodeAt(k)) k++;
      this.failure[i + 1] = k;
    }
  }

  step(code: number): boolean {
    if (this.matched === this.stop.length) this.matched = this.failure[this.matched]!;
    while (this.matched > 0 && this.stop.charCodeAt(this.matched) !== code)
      this.matched = this.failure[this.matched]!;
    if (this.stop.charCodeAt(this.matched) === code) this.matched++;
    return this.matched === this.stop.length;
  }
}
