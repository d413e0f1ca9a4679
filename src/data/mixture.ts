/** What of the curated dialogues goes into the mixture, how often and in which order.
 *  Always: a pure function of ids, groups and the seed; the evaluation part is taken before anything is repeated, and
 *  dialogues with the same first question are on the same side of it. */
import { normalized } from "./filters/texts.ts";

export interface MixtureSource {
  name: string;
  /** Most dialogues of the training part. */
  max?: number | undefined;
  repeat?: number | undefined;
  weight?: number | undefined;
  evalShare: number;
}

export interface MixtureOptions {
  sources: readonly MixtureSource[];
  seed: number;
  /** Dialogues of the training part, where sources have weights. */
  size?: number | undefined;
  /** The original's fault: copies are made before the evaluation part is taken. */
  repeatBeforeSplit: boolean;
}

/** A dialogue as the mixture sees it. */
export interface MixtureItem {
  id: string;
  source: string;
  /** Dialogues of one group are on the same side of the split: `questionGroup` of the first question. */
  group: string;
}

/** Equal for questions that a reader takes for the same; short, because memory holds one a dialogue. */
export const questionGroup = (question: string): string =>
  Bun.hash.xxHash64(normalized(question)).toString(36);

export interface Mixture {
  /** Indices of items, in order; copies are there several times. */
  train: Uint32Array;
  eval: Uint32Array;
  /** Left out, and why. */
  left: { item: number; reason: string }[];
}

export function mix(items: readonly MixtureItem[], options: MixtureOptions): Mixture {
  const draw = new Draw(options.seed);
  const bySource = new Map<string, number[]>(options.sources.map(({ name }) => [name, []]));
  items.forEach(({ source }, i) => bySource.get(source)!.push(i));
  const mixture: { train: Entry[]; eval: Entry[]; left: Mixture["left"] } = { train: [], eval: [], left: [] };
  const capped = new Map<string, number[]>();
  for (const source of options.sources) {
    const isEval = (i: number): boolean => draw.of("split", items[i]!.group) < source.evalShare;
    const own = bySource.get(source.name)!;
    const split = options.repeatBeforeSplit ? () => false : isEval;
    for (const item of own.filter(split)) mixture.eval.push({ item, copy: 0 });
    const train = own.filter((item) => !split(item));
    const most = source.max ?? Infinity;
    const kept = train.length > most ? draw.first(train, most, (i) => `max ${items[i]!.id}`) : train;
    if (kept.length < train.length) {
      const chosen = new Set(kept);
      const reason = `over the ${most} dialogues that the recipe takes of ${source.name}`;
      for (const item of train) if (!chosen.has(item)) mixture.left.push({ item, reason });
    }
    capped.set(source.name, kept);
  }
  const factors = factorsOf(options, capped);
  for (const source of options.sources) {
    const kept = capped.get(source.name)!;
    const copies = copiesOf(kept, factors.get(source.name)!, (i) => draw.of("part", items[i]!.id));
    for (const entry of copies.entries) {
      const key = `${items[entry.item]!.id} ${entry.copy}`;
      const late = options.repeatBeforeSplit && draw.of("late split", key) < source.evalShare;
      mixture[late ? "eval" : "train"].push(entry);
    }
    for (const item of copies.left)
      mixture.left.push({ item, reason: `outside the share that the recipe takes of ${source.name}` });
  }
  const ordered = (entries: Entry[]): Uint32Array => {
    const keys = entries.map(({ item, copy }) => draw.of("order", `${items[item]!.id} ${copy}`));
    const order = entries.map((_, i) => i).sort((a, b) => keys[a]! - keys[b]! || a - b);
    return Uint32Array.from(order, (i) => entries[i]!.item);
  };
  return { train: ordered(mixture.train), eval: ordered(mixture.eval), left: mixture.left };
}

interface Entry {
  item: number;
  copy: number;
}

/** How often each source's training part goes in. */
function factorsOf(
  { sources, size }: MixtureOptions,
  parts: ReadonlyMap<string, readonly number[]>,
): Map<string, number> {
  const present = sources.filter(({ name }) => parts.get(name)!.length > 0);
  if (!present.some(({ weight }) => weight !== undefined))
    return new Map(sources.map(({ name, repeat = 1 }) => [name, repeat]));
  const sum = present.reduce((all, { weight }) => all + weight!, 0);
  const room = present.map(({ name, weight }) => (parts.get(name)!.length * sum) / weight!);
  const total = size ?? Math.min(...room);
  return new Map(
    sources.map(({ name, weight }) => {
      const count = parts.get(name)!.length;
      return [name, count === 0 ? 1 : (total * weight!) / sum / count];
    }),
  );
}

/** Whole copies of all, and one more of the drawn rest. */
function copiesOf(
  kept: readonly number[],
  factor: number,
  key: (item: number) => number,
): { entries: Entry[]; left: number[] } {
  const whole = Math.floor(factor + 1e-9);
  const more = Math.round((factor - whole) * kept.length);
  const ranked = more > 0 ? kept.toSorted((a, b) => key(a) - key(b) || a - b) : [];
  const extra = new Set(ranked.slice(0, more));
  const entries = kept.flatMap((item) =>
    Array.from({ length: whole + (extra.has(item) ? 1 : 0) }, (_, copy) => ({ item, copy })),
  );
  return { entries, left: whole === 0 ? kept.filter((item) => !extra.has(item)) : [] };
}

/** Numbers in [0, 1) that depend on the seed, what they are for, and a text: the order of the data changes none. */
class Draw {
  constructor(private readonly seed: number) {}

  of(use: string, text: string): number {
    return Number(Bun.hash.xxHash64(`${use}\n${text}`, BigInt(this.seed)) >> 11n) / 2 ** 53;
  }

  /** The `count` with the lowest numbers, in their first order. */
  first(items: readonly number[], count: number, text: (item: number) => string): number[] {
    const keys = new Map(items.map((item) => [item, this.of("first", text(item))]));
    const chosen = new Set(items.toSorted((a, b) => keys.get(a)! - keys.get(b)! || a - b).slice(0, count));
    return items.filter((item) => chosen.has(item));
  }
}
