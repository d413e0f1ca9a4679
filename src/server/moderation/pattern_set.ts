/** Many regular expressions searched for at once, in time proportional to the text: a set of automaton states moves over it
 *  (Thompson, 1968). Always: no pattern can make the search exponential; letter case does not matter. */
import { GrammarError } from "../../engine/grammar/errors.ts";
import { parseRegex, type Regex } from "../../engine/grammar/regex_syntax.ts";
import { type CodePoints, has } from "../../engine/grammar/unicode.ts";

type Assertion = "start" | "end" | "boundary";
type State =
  | { kind: "class"; set: CodePoints; next: number }
  | { kind: "split"; next: number[] }
  | { kind: "assert"; at: Assertion; next: number }
  | { kind: "match"; pattern: number };

const statesMax = 50_000;
/** Code points between two looks at the clock. */
const clockEvery = 64;

export class PatternSet {
  readonly #states: State[] = [];
  readonly #starts: number[] = [];

  /** Adds a regular expression; matches of it are told as `pattern`. Throws GrammarError with one sentence. */
  addRegex(source: string, pattern: number): void {
    this.#add(parseRegex(source), pattern, []);
  }

  /** Adds words that stand alone: whatever is between them in the text, white space or punctuation. */
  addKeywords(words: string, pattern: number): void {
    const parts = words
      .toLowerCase()
      .split(/[^\p{L}\p{N}]+/u)
      .filter((word) => word !== "");
    if (parts.length === 0)
      throw new GrammarError(`The keyword ${JSON.stringify(words)} has no letter or digit.`);
    const between: Regex = { kind: "repeat", part: { kind: "class", set: notWord }, min: 1, max: Infinity };
    const sequence = parts.flatMap((word, i): Regex[] => [
      ...(i > 0 ? [between] : []),
      ...[...word].map((c): Regex => ({ kind: "class", set: [[c.codePointAt(0)!, c.codePointAt(0)!]] })),
    ]);
    this.#add({ kind: "sequence", parts: sequence }, pattern, ["boundary"]);
  }

  /** The patterns that match somewhere; null where `deadline` (performance.now) passed first. */
  search(text: string, deadline: number): Set<number> | null {
    const points = [...text.toLowerCase()];
    const found = new Set<number>();
    let active: number[] = [];
    for (let i = 0; i <= points.length; i++) {
      if (i % clockEvery === 0 && performance.now() > deadline) return null;
      const here = this.#closure([...active, ...this.#starts], points, i, found);
      const point = points[i]?.codePointAt(0);
      active = [];
      if (point === undefined) break;
      for (const at of here) {
        const state = this.#states[at]!;
        if (state.kind === "class" && matches(state.set, point)) active.push(state.next);
      }
    }
    return found;
  }

  /** Everything reachable without reading; patterns that end here go to `found`. */
  #closure(from: number[], points: readonly string[], at: number, found: Set<number>): Set<number> {
    const seen = new Set<number>();
    while (from.length > 0) {
      const index = from.pop()!;
      if (seen.has(index)) continue;
      seen.add(index);
      const state = this.#states[index]!;
      if (state.kind === "split") from.push(...state.next);
      else if (state.kind === "match") found.add(state.pattern);
      else if (state.kind === "assert" && holds(state.at, points, at)) from.push(state.next);
    }
    return seen;
  }

  #add(regex: Regex, pattern: number, around: Assertion[]): void {
    let entry = this.#state({ kind: "match", pattern });
    for (const at of around) entry = this.#state({ kind: "assert", at, next: entry });
    entry = this.#build(regex, entry);
    for (const at of around) entry = this.#state({ kind: "assert", at, next: entry });
    this.#starts.push(entry);
  }

  #state(state: State): number {
    if (this.#states.length >= statesMax)
      throw new GrammarError(
        `The rules together need more than ${statesMax} states; use fewer or shorter repeats.`,
      );
    return this.#states.push(state) - 1;
  }

  /** Entry of the automaton that reads `regex` and goes on at `next`. */
  #build(regex: Regex, next: number): number {
    switch (regex.kind) {
      case "class":
        return this.#state({ kind: "class", set: regex.set, next });
      case "anchor":
        return this.#state({ kind: "assert", at: regex.at, next });
      case "sequence":
        return regex.parts.reduceRight((after, part) => this.#build(part, after), next);
      case "choice":
        return this.#state({ kind: "split", next: regex.options.map((option) => this.#build(option, next)) });
      case "repeat":
        return this.#repeat(regex, next);
      default:
        return regex satisfies never;
    }
  }

  #repeat({ part, min, max }: Extract<Regex, { kind: "repeat" }>, next: number): number {
    let entry = next;
    if (max === Infinity) {
      const loop = { kind: "split" as const, next: [next] };
      entry = this.#state(loop);
      loop.next.push(this.#build(part, entry));
    } else
      for (let i = min; i < max; i++)
        entry = this.#state({ kind: "split", next: [next, this.#build(part, entry)] });
    for (let i = 0; i < min; i++) entry = this.#build(part, entry);
    return entry;
  }
}

const isWord = (point: string | undefined): boolean => point !== undefined && /[\p{L}\p{N}_]/u.test(point);
/** ASCII that is neither letter nor digit, and the rest of white space: what may stand between keywords. */
const notWord: CodePoints = [
  [0x00, 0x2f],
  [0x3a, 0x40],
  [0x5b, 0x60],
  [0x7b, 0xa9],
  [0x2000, 0x206f],
  [0x3000, 0x3003],
];

function holds(at: Assertion, points: readonly string[], i: number): boolean {
  if (at === "start") return i === 0;
  if (at === "end") return i === points.length;
  return isWord(points[i - 1]) !== isWord(points[i]);
}

/** Text is in lower case; a pattern may not be. A set with the last code point is a complement: [^b] must not match "B". */
function matches(set: CodePoints, point: number): boolean {
  const upper = String.fromCodePoint(point).toUpperCase().codePointAt(0)!;
  if (upper === point) return has(set, point);
  const isComplement = set.at(-1)?.[1] === 0x10ffff;
  return isComplement ? has(set, point) && has(set, upper) : has(set, point) || has(set, upper);
}
