/** Several regular expressions that hold for one text at once: the product of their automata over characters.
 *  Always: state 0 is the start, and no edge is empty; counts are written out, so large ones are refused. */
import { GrammarError, limits } from "./errors.ts";
import { never } from "./patterns.ts";
import type { Pattern } from "./program.ts";
import type { Spelling } from "./regex.ts";
import type { Regex } from "./regex_syntax.ts";
import { type CodePoints, intersection } from "./unicode.ts";

interface Edge {
  set: CodePoints;
  to: number;
}

interface Automaton {
  edges: Edge[][];
  ends: boolean[];
}

export function allOf(regexes: readonly Regex[], spelling: Spelling): Pattern {
  const [first, ...others] = regexes.map((regex) => withoutForks(new Forks(regex)));
  return spelled(others.reduce(product, first!), spelling);
}

/** States that read one character or fork to others; built from the back, state 0 is the end. */
class Forks {
  readonly reads: (Edge | null)[] = [];
  readonly forks: number[][] = [];
  readonly start: number;

  constructor(regex: Regex) {
    this.start = this.entry(regex, this.add(null, []));
  }

  private entry(regex: Regex, next: number): number {
    switch (regex.kind) {
      case "class":
        return this.add({ set: regex.set, to: next }, []);
      case "sequence":
        return regex.parts.reduceRight((after, part) => this.entry(part, after), next);
      case "choice":
        return this.add(
          null,
          regex.options.map((option) => this.entry(option, next)),
        );
      case "repeat":
        return this.repeat(regex, next);
      case "anchor":
        throw new GrammarError(
          "A regular expression has ^ or $ inside; put them at its beginning and end only.",
        );
      default:
        return regex satisfies never;
    }
  }

  private repeat({ part, min, max }: Extract<Regex, { kind: "repeat" }>, next: number): number {
    let tail = next;
    if (max === Infinity) {
      tail = this.add(null, [next]);
      this.forks[tail]!.push(this.entry(part, tail));
    } else {
      for (let i = min; i < max; i++) tail = this.add(null, [next, this.entry(part, tail)]);
    }
    for (let i = 0; i < min; i++) tail = this.entry(part, tail);
    return tail;
  }

  private add(reads: Edge | null, forks: number[]): number {
    checkCount(this.reads.length);
    this.forks.push(forks);
    return this.reads.push(reads) - 1;
  }
}

function withoutForks({ reads, forks, start }: Forks): Automaton {
  const numbers = new Map([[start, 0]]);
  const result: Automaton = { edges: [], ends: [] };
  let edgeCount = 0;
  for (const state of numbers.keys()) {
    const reached = new Set([state]);
    for (const s of reached) for (const fork of forks[s]!) reached.add(fork);
    const found = [...reached].flatMap((s) => reads[s] ?? []);
    result.ends.push(reached.has(0));
    result.edges.push(found.map(({ set, to }) => ({ set, to: numberOf(numbers, to) })));
    edgeCount += found.length;
    checkCount(edgeCount / 20);
  }
  return result;
}

function product(x: Automaton, y: Automaton): Automaton {
  const width = y.ends.length;
  const numbers = new Map([[0, 0]]);
  const result: Automaton = { edges: [], ends: [] };
  let tried = 0;
  for (const pair of numbers.keys()) {
    const [p, q] = [Math.floor(pair / width), pair % width];
    const edges: Edge[] = [];
    for (const left of x.edges[p]!) {
      for (const right of y.edges[q]!) {
        checkCount(++tried / 20);
        const set = intersection(left.set, right.set);
        if (set.length > 0) edges.push({ set, to: numberOf(numbers, left.to * width + right.to) });
      }
    }
    result.edges.push(edges);
    result.ends.push(x.ends[p]! && y.ends[q]!);
  }
  return result;
}

/** A map's keys are visited in the order of their numbers, those added on the way included. */
function numberOf(numbers: Map<number, number>, key: number): number {
  const known = numbers.get(key);
  if (known !== undefined) return known;
  checkCount(numbers.size);
  numbers.set(key, numbers.size);
  return numbers.size - 1;
}

function spelled({ edges, ends }: Automaton, spelling: Spelling): Pattern {
  return (build, next) => {
    const dead = never(build, next);
    const entries = ends.map((mayEnd) => build.loop(mayEnd ? next : dead));
    for (const [state, list] of edges.entries()) {
      const branches = list.map(({ set, to }) => spelling(set)(build, entries[to]!));
      if (branches.length > 0)
        build.close(
          entries[state]!,
          branches.reduce((x, y) => build.split(x, y)),
        );
    }
    return entries[0]!;
  };
}

function checkCount(states: number): void {
  if (states <= limits.productStates) return;
  throw new GrammarError(
    'The JSON schema combines "pattern", "format", minLength or maxLength in a way that is too large; write the lengths into the pattern, or keep one of them.',
  );
}
