/** Seeded random numbers for bootstraps and simulated raters: a stream a name, so that one analysis never moves another.
 *  Always: the same seed and name draw the same numbers on every machine. */
import { philox4x32 } from "../../util/rng.ts";

export class RandomStream {
  private readonly seed: number;
  private words: number[] = [];
  private index = 0;
  private spare: number | null = null;

  constructor(seed: number, name: string) {
    this.seed = hash32(`${seed}/${name}`);
  }

  /** Uniform in [0, 1) with 53 bits. */
  next(): number {
    const high = this.word() >>> 5;
    return (high * 2 ** 26 + (this.word() >>> 6)) / 2 ** 53;
  }

  /** A whole number in [0, count), from 32 bits: the bias of at most count / 2^32 is far below what a bootstrap shows. */
  below(count: number): number {
    return Math.floor((this.word() / 2 ** 32) * count);
  }

  /** Four a round of Philox. */
  private word(): number {
    const place = this.index++ & 3;
    if (place === 0) this.words = philox4x32([this.seed, streamKey], [this.index >>> 2, 0, 0, 0]);
    return this.words[place]!;
  }

  /** Normal with the given mean and standard deviation (Box and Muller, 1958). */
  normal(mean = 0, deviation = 1): number {
    if (this.spare !== null) {
      const value = mean + deviation * this.spare;
      this.spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - this.next()));
    const angle = 2 * Math.PI * this.next();
    this.spare = radius * Math.sin(angle);
    return mean + deviation * radius * Math.cos(angle);
  }

  /** `count` different whole numbers in [0, from), in random order. */
  sample(from: number, count: number): number[] {
    const pool = Array.from({ length: from }, (_, index) => index);
    for (let place = 0; place < count; place++) {
      const other = place + this.below(from - place);
      [pool[place], pool[other]] = [pool[other]!, pool[place]!];
    }
    return pool.slice(0, count);
  }
}

/** Second key word of this use of a seed. */
const streamKey = 0x6576616c;

/** FNV-1a with the last mixing steps of MurmurHash3, so that "1/a" and "1/b" share no bits. */
function hash32(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
