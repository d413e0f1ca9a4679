/** The automaton of one grammar, made deterministic as far as outputs lead: a position is the set of all stacks that
 *  the bytes so far leave open, and each transition is computed once and then read from a table.
 *  Always: position 0 is the dead end; every other one can still become a complete output. */
import { type Analysis, analyse } from "./analysis.ts";
import { Closure } from "./closure.ts";
import { GrammarError, limits } from "./errors.ts";
import { type Frame, FrameTable, type Stacks, bottom, caller, keyOf, normalise } from "./frames.ts";
import { MATCH, type Program, type Rule, counterBase } from "./program.ts";

export const dead = 0;

export class Machine {
  /** Grows by one whenever all positions are dropped to free memory. */
  epoch = 0;
  private readonly classCount: number;
  private readonly analysis: Analysis;
  private readonly repeats: Rule[];
  private readonly frames: FrameTable;
  private next = new Int32Array(0);
  private kernels: Stacks[] = [];
  /** What each position can read: states that want a byte. */
  private readers: Stacks[] = [];
  private completes: boolean[] = [];
  private canonicals: number[][] = [];
  private ids = new Map<string, number>();
  private stored = 0;
  private stepsLeft = 0;

  /** horizons: bytes of the longest token among the short and among the long ones. */
  constructor(
    private readonly program: Program,
    private readonly horizons: readonly number[],
  ) {
    this.analysis = analyse(program);
    this.classCount = program.representative.length;
    this.repeats = program.rules.filter((rule) => rule.repeat !== null);
    this.frames = new FrameTable((state, horizon) => this.canonicalState(state, horizon));
    this.clear();
  }

  start(): number {
    return this.position({ states: [this.program.rules[0]!.start], frames: [bottom] });
  }

  /** Table lookups of `step`, for loops over many bytes: `table[position * width + classOf[byte]]`, -1 where not yet computed. */
  get table(): Int32Array {
    return this.next;
  }

  get width(): number {
    return this.classCount;
  }

  get classOf(): Uint8Array {
    return this.program.classOf;
  }

  get bytes(): number {
    return this.stored;
  }

  step(position: number, byte: number): number {
    const at = position * this.classCount + this.program.classOf[byte]!;
    const known = this.next[at]!;
    return known >= 0 ? known : (this.next[at] = this.compute(position, this.program.classOf[byte]!));
  }

  /** The whole output so far is a match (for stacks above `caller`: the shared rule is over). */
  complete(position: number): boolean {
    return this.completes[position]!;
  }

  /** Some byte may follow. */
  open(position: number): boolean {
    return this.readers[position]!.states.length > 0;
  }

  stacks(position: number): Stacks {
    return this.kernels[position]!;
  }

  /** A position with the same mask for tokens within the horizon, common to many counts. */
  canonical(position: number, horizon: number): number {
    const known = this.canonicals[position]![horizon];
    if (known !== undefined) return known;
    const canonical = this.position(this.frames.canonicalStacks(this.kernels[position]!, horizon));
    this.canonicals[position]![horizon] = canonical;
    return canonical;
  }

  /** The stacks by the innermost shared rule that they are in: its position above `caller`, and the one after the rule.
   *  A token is allowed at a position where it is allowed for any of these or for the rest. */
  sharedRules(position: number): { shared: { inside: number; after: number }[]; rest: number } {
    const { states, frames } = this.kernels[position]!;
    const groups = new Map<Frame | null, { states: number[]; frames: Frame[] }>();
    for (let i = 0; i < states.length; i++) {
      const rule = findShared(frames[i]!);
      let group = groups.get(rule);
      if (group === undefined) groups.set(rule, (group = { states: [], frames: [] }));
      group.states.push(states[i]!);
      group.frames.push(frames[i]!);
    }
    const rest = groups.get(null) ?? { states: [], frames: [] };
    groups.delete(null);
    const shared = [...groups].map(([rule, group]) => this.aboveCaller(rule!, group));
    return { shared, rest: this.position(normalise(rest.states, rest.frames)) };
  }

  private aboveCaller(
    shared: Frame,
    group: { states: number[]; frames: Frame[] },
  ): { inside: number; after: number } {
    const rebase = (frame: Frame): Frame =>
      frame === shared
        ? caller
        : this.frames.intern(frame.rule, false, { states: frame.states, frames: frame.parents.map(rebase) });
    const inside = this.position(normalise(group.states, group.frames.map(rebase)));
    return { inside, after: this.position({ states: shared.states, frames: shared.parents }) };
  }

  /** Called before the work of one token or mask: renews its budget and frees memory where too much is stored. */
  begin(): void {
    this.stepsLeft = limits.steps;
    if (this.stored > limits.machineBytes || this.frames.size > 500_000) this.clear();
  }

  /** Counts work that happens outside. */
  spend(steps: number): void {
    this.stepsLeft -= steps;
    if (this.stepsLeft < 0) {
      throw new GrammarError(
        "The output format leaves too many alternatives open at one point to be followed in time; make its alternatives differ earlier or use fewer counted repeats.",
      );
    }
  }

  /** The position of stacks that were taken before an `epoch` ended. */
  adopt(stacks: Stacks): number {
    return this.position(this.frames.adopt(stacks));
  }

  private clear(): void {
    this.epoch++;
    this.frames.clear();
    this.next = new Int32Array(64 * this.classCount).fill(-1);
    this.next.fill(dead, 0, this.classCount);
    const none = { states: [], frames: [] };
    this.kernels = [none];
    this.readers = [none];
    this.completes = [false];
    this.canonicals = [[dead, dead]];
    this.ids = new Map([["", dead]]);
    this.stored = this.next.byteLength;
    this.stepsLeft = limits.steps;
  }

  private position(stacks: Stacks): number {
    const key = keyOf(stacks);
    const known = this.ids.get(key);
    if (known !== undefined) return known;
    const closed = this.close(stacks);
    const id = this.kernels.push(stacks) - 1;
    this.ids.set(key, id);
    this.canonicals.push([]);
    this.readers.push(closed.readers);
    this.completes.push(closed.complete);
    this.stored += 200 + key.length + 24 * (stacks.states.length + closed.readers.states.length);
    this.grow(id + 1);
    return id;
  }

  private grow(positions: number): void {
    const size = positions * this.classCount;
    if (size <= this.next.length) return;
    const larger = new Int32Array(this.next.length * 2).fill(-1, this.next.length);
    larger.set(this.next);
    this.stored += larger.byteLength - this.next.byteLength;
    this.next = larger;
  }

  private compute(position: number, byteClass: number): number {
    const { sets, representative, a, b } = this.program;
    const byte = representative[byteClass]!;
    const word = byte >> 5;
    const bit = 1 << (byte & 31);
    const reader = this.readers[position]!;
    this.spend(1 + reader.states.length);
    const states: number[] = [];
    const frames: Frame[] = [];
    for (let i = 0; i < reader.states.length; i++) {
      const state = reader.states[i]!;
      if ((sets[a[state]! * 8 + word]! & bit) === 0) continue;
      this.land(b[state]!, reader.frames[i]!, { states, frames });
    }
    return this.position(normalise(states, frames));
  }

  /** Adds a stack; one whose rule is over is replaced by what follows, so that equal positions get equal keys. */
  private land(state: number, frame: Frame, into: { states: number[]; frames: Frame[] }): void {
    const work: [number, Frame][] = [[state, frame]];
    for (let item = work.pop(); item !== undefined; item = work.pop()) {
      const [s, f] = item;
      if (this.isEnd(s) && f.parents.length > 0) {
        for (let i = 0; i < f.states.length; i++) work.push([f.states[i]!, f.parents[i]!]);
        this.spend(f.states.length);
      } else {
        into.states.push(s);
        into.frames.push(f);
      }
    }
  }

  private isEnd(state: number): boolean {
    if (state < counterBase) return state === MATCH;
    const { start, repeat } = this.repeatOf(state);
    return state - start === repeat.max;
  }

  /** Everything that the stacks reach without a byte. */
  private close({ states, frames }: Stacks): { readers: Stacks; complete: boolean } {
    return new Closure(this, this.program, this.analysis).run(states, frames, this.frames);
  }

  repeatOf(state: number): { start: number; repeat: NonNullable<Rule["repeat"]> } {
    let low = 0;
    let high = this.repeats.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.repeats[middle]!.start <= state) low = middle;
      else high = middle - 1;
    }
    const { start, repeat } = this.repeats[low]!;
    return { start, repeat: repeat! };
  }

  /** Within one token a count changes by at most its bytes: far from its bounds every count is as good as another. */
  private canonicalState(state: number, horizon: number): number {
    if (state < counterBase) return state;
    const { start, repeat } = this.repeatOf(state);
    const count = state - start;
    const reach = this.horizons[horizon]!;
    if (repeat.max - count <= reach) return state;
    if (repeat.min - count > reach) return start;
    return count >= repeat.min ? start + repeat.min : state;
  }
}

function findShared(frame: Frame): Frame | null {
  for (let depth = 0; depth < 8; depth++) {
    if (frame.shared) return frame;
    if (frame.parents.length !== 1) return null;
    frame = frame.parents[0]!;
  }
  return null;
}
