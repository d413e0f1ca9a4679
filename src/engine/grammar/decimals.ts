/** Decimal numbers within bounds, digit by digit: while the digits so far equal a bound's, the next one is held to it. */
import { never } from "./patterns.ts";
import type { Pattern, ProgramBuilder } from "./program.ts";

/** Bounds are inclusive unless `open`; null: none (then 1e20, or the largest safe integer). */
export interface DecimalRange {
  low: number | null;
  high: number | null;
  lowOpen: boolean;
  highOpen: boolean;
  /** Most digits after the point; 0: integers, without a point. */
  decimals: number;
}

/** A magnitude: digits before and after the point. */
interface Bound {
  digits: string;
  fraction: string;
  open: boolean;
}

/** No exponents and no "-0". */
export function decimalRange(range: DecimalRange): Pattern {
  const { low, high, lowOpen, highOpen, decimals } = range;
  const limit = decimals === 0 ? Number.MAX_SAFE_INTEGER : 1e20;
  const from = low === null ? -limit : Math.max(low, -limit);
  const to = high === null ? limit : Math.min(high, limit);
  if (from > to) return never;
  const least = bound(from, lowOpen && from === low);
  const most = bound(to, highOpen && to === high);
  return (build, next) => {
    const zero = bound(0, false);
    const positive =
      to >= 0 ? magnitude(build, { low: from >= 0 ? least : zero, high: most, decimals, next }) : -1;
    if (from >= 0) return positive;
    const low = to < 0 ? most : { ...zero, open: true };
    const negative = build.byte([[0x2d, 0x2d]], magnitude(build, { low, high: least, decimals, next }));
    return positive < 0 ? negative : build.split(positive, negative);
  };
}

function bound(value: number, open: boolean): Bound {
  const [digits = "0", fraction = ""] = plain(Math.abs(value)).split(".");
  return { digits, fraction, open };
}

/** Without exponent: 1e-7 -> 0.0000001. Below 1e21 only small numbers have one. */
function plain(value: number): string {
  const [mantissa = "0", exponent] = String(value).split("e-");
  if (exponent === undefined) return mantissa;
  return `0.${"0".repeat(Number(exponent) - 1)}${mantissa.replace(".", "")}`;
}

interface Magnitude {
  low: Bound;
  high: Bound;
  decimals: number;
  next: number;
}

function magnitude(build: ProgramBuilder, range: Magnitude): number {
  let entry = -1;
  for (let length = range.low.digits.length; length <= range.high.digits.length; length++) {
    const state = new DigitStates(build, range, length).integer({
      at: 0,
      onLow: length === range.low.digits.length,
      onHigh: length === range.high.digits.length,
    });
    entry = entry < 0 ? state : build.split(state, entry);
  }
  return entry;
}

/** Where in the digits, and whether they still equal the lower or upper bound's. */
interface Place {
  at: number;
  onLow: boolean;
  onHigh: boolean;
}

/** The states for one count of integer digits. */
class DigitStates {
  private readonly known = new Map<string, number>();

  constructor(
    private readonly build: ProgramBuilder,
    private readonly range: Magnitude,
    private readonly length: number,
  ) {}

  integer(place: Place): number {
    if (place.at === this.length) return this.point(place);
    const { low, high } = this.range;
    const leading = place.at === 0 && this.length > 1 ? 1 : 0;
    return this.digits("integer", place, {
      least: place.onLow ? Number(low.digits[place.at]) : leading,
      most: place.onHigh ? Number(high.digits[place.at]) : 9,
      from: leading,
      follow: (following) => this.integer(following),
    });
  }

  private point(place: Place): number {
    const ends = this.mayEnd({ ...place, at: 0 });
    if (this.range.decimals === 0) return ends ? this.range.next : never(this.build, this.range.next);
    const fraction = this.build.byte([[0x2e, 0x2e]], this.fraction({ ...place, at: 0 }, false));
    return ends ? this.build.split(fraction, this.range.next) : fraction;
  }

  private fraction(place: Place, mayEnd: boolean): number {
    const { low, high, decimals, next } = this.range;
    const more =
      place.at === decimals
        ? -1
        : this.digits("fraction", place, {
            least: place.onLow ? Number(low.fraction[place.at] ?? 0) : 0,
            most: place.onHigh ? Number(high.fraction[place.at] ?? 0) : 9,
            from: 0,
            follow: (following) => this.fraction(following, true),
          });
    if (!mayEnd || !this.mayEnd(place)) return more < 0 ? never(this.build, next) : more;
    return more < 0 ? next : this.build.split(more, next);
  }

  /** The number that ends here lies within the bounds. */
  private mayEnd({ at, onLow, onHigh }: Place): boolean {
    const { low, high } = this.range;
    const lowRest = Number(low.fraction.slice(at)) > 0;
    const highRest = Number(high.fraction.slice(at)) > 0;
    return (!onLow || (!lowRest && !low.open)) && (!onHigh || highRest || !high.open);
  }

  private digits(
    part: string,
    place: Place,
    allowed: { least: number; most: number; from: number; follow: (following: Place) => number },
  ): number {
    const key = `${part} ${place.at} ${place.onLow} ${place.onHigh}`;
    const known = this.known.get(key);
    if (known !== undefined) return known;
    const least = Math.max(allowed.least, allowed.from);
    let entry = -1;
    for (let d = least; d <= allowed.most; d++) {
      const onLow = place.onLow && d === allowed.least;
      const onHigh = place.onHigh && d === allowed.most;
      let last = d;
      // Digits strictly between the bounds lead to the same place.
      if (!onLow && !onHigh) last = place.onHigh ? allowed.most - 1 : allowed.most;
      const state = this.build.byte(
        [[0x30 + d, 0x30 + last]],
        allowed.follow({ at: place.at + 1, onLow, onHigh }),
      );
      entry = entry < 0 ? state : this.build.split(state, entry);
      d = last;
    }
    if (entry < 0) entry = never(this.build, this.range.next);
    this.known.set(key, entry);
    return entry;
  }
}
