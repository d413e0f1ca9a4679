/** A grammar as a program for a pushdown automaton over bytes: states that read a byte, fork, call a rule, or end one.
 *  Always: a state's successors belong to the same rule; state 0 ends whichever rule runs; rule 0 is the whole output.
 *  Counted repeats take one id a count but no memory, so `{0,1000000}` costs as little as `*`. */
import { GrammarError, limits } from "./errors.ts";

export const MATCH = 0;
/** Ids from here on belong to counted repeats: `counterBase + offset + count`. */
export const counterBase = 1 << 18;

export const op = { match: 0, byte: 1, split: 2, call: 3 } as const;

export type ByteRange = readonly [low: number, high: number];

/** Writes the states of a piece of grammar in front of state `next`; returns its first state. */
export type Pattern = (build: ProgramBuilder, next: number) => number;

export interface Rule {
  start: number;
  /** Masks inside this rule are computed once for all callers (strings: most of the vocabulary is allowed there). */
  shared: boolean;
  /** A counted repeat of `body`: state start + i has seen it i times; the last state stays. */
  repeat: { body: number; min: number; max: number; last: number } | null;
}

export interface Program {
  op: Uint8Array;
  /** byte: set id; split: state; call: rule. */
  a: Int32Array;
  /** byte: next state; split: state; call: state to return to. */
  b: Int32Array;
  rules: Rule[];
  /** 8 words a set: bit x is set where byte x belongs to it. */
  sets: Uint32Array;
  /** Byte to class: bytes of one class are alike for every set. */
  classOf: Uint8Array;
  /** One byte of each class. */
  representative: Uint8Array;
}

export class ProgramBuilder {
  private readonly ops: number[] = [op.match];
  private readonly as: number[] = [0];
  private readonly bs: number[] = [0];
  private readonly rules: Rule[] = [];
  private readonly ruleOf = new Map<unknown, number>();
  private readonly pending: { rule: number; pattern: () => Pattern }[] = [];
  private readonly setIds = new Map<string | number, number>();
  private readonly setRanges: (readonly ByteRange[])[] = [];
  private counters = 0;

  /** Compiles `root` and every rule that it reaches. */
  build(root: Pattern): Program {
    this.rule({}, () => root);
    for (let item = this.pending.pop(); item !== undefined; item = this.pending.pop()) {
      this.rules[item.rule]!.start = item.pattern()(this, MATCH);
    }
    return {
      op: Uint8Array.from(this.ops),
      a: Int32Array.from(this.as),
      b: Int32Array.from(this.bs),
      rules: this.rules,
      sets: setBits(this.setRanges),
      ...byteClasses(this.setRanges),
    };
  }

  byte(ranges: readonly ByteRange[], next: number): number {
    const key = ranges.length === 1 ? ranges[0]![0] * 256 + ranges[0]![1] : ranges.join(";");
    let set = this.setIds.get(key);
    if (set === undefined) {
      set = this.setRanges.push(ranges) - 1;
      this.setIds.set(key, set);
    }
    return this.state(op.byte, set, next);
  }

  split(a: number, b: number): number {
    return a === b ? a : this.state(op.split, a, b);
  }

  call(rule: number, next: number): number {
    return this.state(op.call, rule, next);
  }

  /** A fork whose first branch is known later: loops. */
  loop(next: number): number {
    return this.state(op.split, next, next);
  }

  close(loop: number, body: number): number {
    this.as[loop] = body;
    return loop;
  }

  /** The rule of `key`, compiled once, after the caller. */
  rule(key: unknown, pattern: () => Pattern, shared = false): number {
    const known = this.ruleOf.get(key);
    if (known !== undefined) return known;
    const rule = this.addRule({ start: MATCH, shared, repeat: null });
    this.ruleOf.set(key, rule);
    this.pending.push({ rule, pattern });
    return rule;
  }

  repeatRule(body: Pattern, min: number, max: number): number {
    if (min > limits.repeatCount || (max > limits.repeatCount && max !== Infinity)) {
      throw new GrammarError(
        `The output format repeats something ${max === Infinity ? min : max} times; use at most ${limits.repeatCount}.`,
      );
    }
    const last = max === Infinity ? min : max;
    const start = counterBase + this.counters;
    this.counters += last + 1;
    if (this.counters > 1 << 28) throw tooLarge("counted repeats");
    return this.addRule({
      start,
      shared: false,
      repeat: { body: this.rule({}, () => body), min, max, last },
    });
  }

  private addRule(rule: Rule): number {
    if (this.rules.length >= limits.rules) throw tooLarge("rules");
    return this.rules.push(rule) - 1;
  }

  private state(kind: number, a: number, b: number): number {
    if (this.ops.length >= limits.states) throw tooLarge("states");
    this.as.push(a);
    this.bs.push(b);
    return this.ops.push(kind) - 1;
  }
}

function tooLarge(what: string): GrammarError {
  return new GrammarError(
    `The output format is too large: its automaton needs too many ${what}. Simplify it or split it.`,
  );
}

function setBits(sets: readonly (readonly ByteRange[])[]): Uint32Array {
  const bits = new Uint32Array(sets.length * 8);
  for (const [id, ranges] of sets.entries()) {
    for (const [low, high] of ranges) {
      for (let x = low; x <= high; x++) bits[id * 8 + (x >> 5)]! |= 1 << (x & 31);
    }
  }
  return bits;
}

function byteClasses(sets: readonly (readonly ByteRange[])[]) {
  const cut = new Uint8Array(257);
  cut[0] = 1;
  for (const ranges of sets) {
    for (const [low, high] of ranges) {
      cut[low] = 1;
      cut[high + 1] = 1;
    }
  }
  const classOf = new Uint8Array(256);
  const representative: number[] = [];
  for (let x = 0; x < 256; x++) {
    if (cut[x] === 1) representative.push(x);
    classOf[x] = representative.length - 1;
  }
  return { classOf, representative: Uint8Array.from(representative) };
}
