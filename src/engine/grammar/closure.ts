/** Everything that a set of stacks reaches without reading a byte.
 *  Always: rules called at one point of the output share one new frame each, made when all their callers are known. */
import type { Analysis } from "./analysis.ts";
import { limits } from "./errors.ts";
import { type Frame, type FrameTable, type Stacks, normalise } from "./frames.ts";
import { type Program, counterBase, op } from "./program.ts";
import type { Machine } from "./machine.ts";

/** Frames opened in the closure at hand go by their rule's number until all their callers are known. */
type OpenFrame = Frame | number;

interface OpenStacks {
  states: number[];
  frames: OpenFrame[];
}

export class Closure {
  private readonly work: OpenStacks = { states: [], frames: [] };
  private readonly readers: OpenStacks = { states: [], frames: [] };
  private readonly opened = new Map<number, OpenStacks>();
  private readonly seen = new Set<number>();
  private complete = false;

  constructor(
    private readonly machine: Machine,
    private readonly program: Program,
    private readonly analysis: Analysis,
  ) {}

  run(states: readonly number[], frames: readonly Frame[], table: FrameTable) {
    for (let i = 0; i < states.length; i++) this.visit(states[i]!, frames[i]!);
    const { work } = this;
    for (let s = work.states.pop(); s !== undefined; s = work.states.pop())
      this.expand(s, work.frames.pop()!);
    this.machine.spend(this.seen.size);
    if (this.seen.size > limits.openAlternatives) this.machine.spend(Infinity);
    return { readers: this.internFrames(table), complete: this.complete };
  }

  private visit(state: number, frame: OpenFrame): void {
    if (state < counterBase && this.analysis.alive[state] === 0) return;
    const key = state * 2 ** 23 + (typeof frame === "number" ? 2 ** 22 + frame : frame.id);
    if (this.seen.has(key)) return;
    this.seen.add(key);
    this.work.states.push(state);
    this.work.frames.push(frame);
  }

  private expand(state: number, frame: OpenFrame): void {
    if (state >= counterBase) return this.expandRepeat(state, frame);
    const { op: ops, a, b } = this.program;
    const kind = ops[state];
    if (kind === op.byte) {
      this.readers.states.push(state);
      this.readers.frames.push(frame);
    } else if (kind === op.split) {
      this.visit(a[state]!, frame);
      this.visit(b[state]!, frame);
    } else if (kind === op.call) {
      this.call(a[state]!, b[state]!, frame);
      if (this.analysis.ruleNullable[a[state]!] === 1) this.visit(b[state]!, frame);
    } else this.end(frame);
  }

  private expandRepeat(state: number, frame: OpenFrame): void {
    const { start, repeat } = this.machine.repeatOf(state);
    const count = state - start;
    if (count < repeat.max) this.call(repeat.body, start + Math.min(count + 1, repeat.last), frame);
    if (count >= repeat.min) this.end(frame);
  }

  private call(rule: number, back: number, frame: OpenFrame): void {
    if (this.analysis.ruleAlive[rule] === 0) return;
    if (back < counterBase && this.analysis.alive[back] === 0) return;
    let callers = this.opened.get(rule);
    if (callers === undefined) {
      callers = { states: [], frames: [] };
      this.opened.set(rule, callers);
      this.visit(this.program.rules[rule]!.start, rule);
    }
    callers.states.push(back);
    callers.frames.push(frame);
  }

  /** A rule opened in this closure has read nothing: that its end can be reached is `ruleNullable`, seen by the caller. */
  private end(frame: OpenFrame): void {
    if (typeof frame === "number") return;
    if (frame.parents.length === 0) this.complete = true;
    for (let i = 0; i < frame.states.length; i++) this.visit(frame.states[i]!, frame.parents[i]!);
  }

  private internFrames(table: FrameTable): Stacks {
    const done = new Map<number, Frame>();
    const settle = (frame: OpenFrame) => (typeof frame === "number" ? done.get(frame)! : frame);
    const { rank } = this.analysis;
    for (const rule of [...this.opened.keys()].sort((x, y) => rank[x]! - rank[y]!)) {
      const { states, frames } = this.opened.get(rule)!;
      done.set(
        rule,
        table.intern(rule, this.program.rules[rule]!.shared, normalise(states, frames.map(settle))),
      );
    }
    return { states: this.readers.states, frames: this.readers.frames.map(settle) };
  }
}
