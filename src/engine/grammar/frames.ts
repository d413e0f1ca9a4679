/** The machine's stacks: a frame is a called rule and everything that may follow it, so that callers at one point of
 *  the output share one frame and the number of stacks does not multiply with their alternatives.
 *  Always: equal frames are one object; parents are older (smaller id) than children. */

export interface Frame {
  readonly id: number;
  readonly rule: number;
  readonly shared: boolean;
  /** After the rule: resume in states[i] under parents[i]. */
  readonly states: readonly number[];
  readonly parents: readonly Frame[];
  /** For each horizon, the same frame with counts replaced by representatives (see `Machine.canonical`). */
  readonly canonical: readonly Frame[];
}

/** A state of the program under a frame, for each alternative still open; sorted. */
export interface Stacks {
  readonly states: readonly number[];
  readonly frames: readonly Frame[];
}

/** Masks are made for short tokens and for long ones. */
export const horizonCount = 2;

/** Below the whole output. */
export const bottom = baseFrame(0);
/** Stands for "whatever called this shared rule". */
export const caller = baseFrame(1);

function baseFrame(id: number): Frame {
  const canonical: Frame[] = [];
  const frame: Frame = { id, rule: -1, shared: false, states: [], parents: [], canonical };
  for (let i = 0; i < horizonCount; i++) canonical.push(frame);
  return frame;
}

/** Sorts by state and frame and drops doubles. */
export function normalise(states: number[], frames: Frame[]): Stacks {
  if (states.length < 2) return { states, frames };
  const order = states
    .map((_, i) => i)
    .sort((i, j) => states[i]! - states[j]! || frames[i]!.id - frames[j]!.id);
  const kept = order.filter((at, k) => {
    const before = order[k - 1];
    return before === undefined || states[before] !== states[at] || frames[before] !== frames[at];
  });
  return { states: kept.map((i) => states[i]!), frames: kept.map((i) => frames[i]!) };
}

export function keyOf({ states, frames }: Stacks): string {
  let key = "";
  for (let i = 0; i < states.length; i++) key += `${states[i]},${frames[i]!.id};`;
  return key;
}

export class FrameTable {
  private byKey = new Map<string, Frame>();
  private nextId = 2;

  /** canonicalState: the representative of a counted state, for a horizon. */
  constructor(private readonly canonicalState: (state: number, horizon: number) => number) {}

  get size(): number {
    return this.byKey.size;
  }

  intern(rule: number, shared: boolean, stacks: Stacks): Frame {
    const key = `${rule}:${keyOf(stacks)}`;
    const known = this.byKey.get(key);
    if (known !== undefined) return known;
    const canonical = Array.from({ length: horizonCount }, (_, i) =>
      this.canonicalOf({ rule, shared, stacks }, i),
    );
    const frame: Frame = {
      id: this.nextId++,
      rule,
      shared,
      ...spread(stacks),
      canonical: canonical as Frame[],
    };
    for (let i = 0; i < horizonCount; i++) canonical[i] ??= frame;
    this.byKey.set(key, frame);
    return frame;
  }

  /** null: the frame itself. */
  private canonicalOf(of: { rule: number; shared: boolean; stacks: Stacks }, horizon: number): Frame | null {
    const canonical = this.canonicalStacks(of.stacks, horizon);
    return canonical === of.stacks ? null : this.intern(of.rule, of.shared, canonical);
  }

  /** The stacks themselves where no count changes. */
  canonicalStacks(stacks: Stacks, horizon: number): Stacks {
    const states = stacks.states.map((state) => this.canonicalState(state, horizon));
    const frames = stacks.frames.map((frame) => frame.canonical[horizon]!);
    const same =
      states.every((s, i) => s === stacks.states[i]) && frames.every((f, i) => f === stacks.frames[i]);
    return same ? stacks : normalise(states, frames);
  }

  clear(): void {
    this.byKey = new Map();
    this.nextId = 2;
  }

  /** The same stacks with every frame interned anew, after `clear`. Oldest first: no recursion, whatever the depth. */
  adopt({ states, frames }: Stacks): Stacks {
    const found = new Set<Frame>(frames);
    for (const frame of found) for (const parent of frame.parents) found.add(parent);
    const renewed = new Map<Frame, Frame>([
      [bottom, bottom],
      [caller, caller],
    ]);
    for (const frame of [...found].sort((x, y) => x.id - y.id)) {
      if (renewed.has(frame)) continue;
      const parents = frame.parents.map((parent) => renewed.get(parent)!);
      renewed.set(frame, this.intern(frame.rule, frame.shared, normalise([...frame.states], parents)));
    }
    return normalise(
      [...states],
      frames.map((frame) => renewed.get(frame)!),
    );
  }
}

function spread({ states, frames }: Stacks): { states: readonly number[]; parents: readonly Frame[] } {
  return { states, parents: frames };
}
