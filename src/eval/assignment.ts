/** Who rates what in a blind comparison: items, attention checks, swapped repeats, sides and order, as pure functions of a seed.
 *  Always: an item's sides differ by at most one over its raters; a rater meets a question at most once per pair, except
 *  in a repeat, which comes after the first meeting with sides swapped; ratings go where fewest are. */
import type { Verdict } from "./comparison.ts";
import { RandomStream } from "./statistics/random.ts";

export type Side = "a" | "b";

/** One answer, by what it answers and who wrote it. */
export interface AnswerPlace {
  question: string;
  system: string;
}

export interface PlannedItem {
  question: string;
  systemA: string;
  systemB: string;
  /** What is shown for each system: of golds not always its own answer to this question. */
  answers: { a: AnswerPlace; b: AnswerPlace };
  kind: "real" | "gold";
  expected: Verdict | null;
  firstLeft: Side;
}

export interface ItemPlan {
  questions: readonly { id: string; set: string }[];
  pairs: readonly (readonly [string, string])[];
  /** Whether there is an answer that can be shown. */
  isAnswered: (place: AnswerPlace) => boolean;
  /** Golds for each real item. */
  goldShare: number;
  seed: number;
}

/** All real items, and golds of two kinds in turn: the same answer twice, and an answer to another question. */
export function planItems(plan: ItemPlan): PlannedItem[] {
  const draw = new RandomStream(plan.seed, "study items");
  const real = plan.pairs.flatMap(([systemA, systemB]) =>
    plan.questions.flatMap(({ id }): PlannedItem[] => {
      const answers = { a: { question: id, system: systemA }, b: { question: id, system: systemB } };
      if (!plan.isAnswered(answers.a) || !plan.isAnswered(answers.b)) return [];
      return [{ question: id, systemA, systemB, answers, kind: "real", expected: null, firstLeft: "a" }];
    }),
  );
  // Half of the items begin with each side, whichever.
  shuffled(real, draw).forEach((item, index) => (item.firstLeft = index % 2 === 0 ? "a" : "b"));
  const wanted = Math.ceil(real.length * plan.goldShare - 1e-9);
  const golds = shuffled(real, draw).slice(0, wanted);
  return [...real, ...golds.map((item, index) => goldOf(item, { index, plan, draw }))];
}

function goldOf(item: PlannedItem, of: { index: number; plan: ItemPlan; draw: RandomStream }): PlannedItem {
  const { index, plan, draw } = of;
  const kept: Side = draw.below(2) === 0 ? "a" : "b";
  const firstLeft: Side = draw.below(2) === 0 ? "a" : "b";
  const proper = item.answers[kept];
  const gold = { ...item, kind: "gold" as const, firstLeft };
  const system = kept === "a" ? item.systemB : item.systemA;
  const others = plan.questions.filter(
    ({ id }) => id !== item.question && plan.isAnswered({ question: id, system }),
  );
  if (index % 2 === 0 || others.length === 0)
    return { ...gold, answers: { a: proper, b: proper }, expected: "tie" };
  const foreign = { question: others[draw.below(others.length)]!.id, system };
  const answers = kept === "a" ? { a: proper, b: foreign } : { a: foreign, b: proper };
  return { ...gold, answers, expected: kept };
}

/** An item as the next rater's session sees it. */
export interface OpenItem {
  id: string;
  question: string;
  systemA: string;
  systemB: string;
  kind: "real" | "gold";
  firstLeft: Side;
  /** Raters that have it, by the system on their left; expired assignments and repeats apart. */
  onLeft: { a: number; b: number };
}

/** What a rater has or had, expired ones apart. */
export interface Met {
  itemId: string;
  kind: "real" | "gold" | "repeat";
  left: Side;
}

export interface SessionPlan {
  items: readonly OpenItem[];
  /** Ratings that each real item wants. */
  ratings: number;
  met: readonly Met[];
  /** Real items that a rater is given altogether. */
  quota: number;
  goldShare: number;
  repeatShare: number;
  seed: number;
  /** Names this draw: another one for each rater and session. */
  stream: string;
}

export interface PlannedAssignment extends Met {
  /** The rater's own order; `met` comes before. */
  number: number;
}

/** What a rater is still to be given, in order. Empty: the quota is filled, or the study wants nothing of this rater.
 *  A rater of all real items gets no golds: each would be a question met before. */
export function planSession(plan: SessionPlan): PlannedAssignment[] {
  const draw = new RandomStream(plan.seed, plan.stream);
  const met = new Meetings(plan.items, plan.met);
  const count = (kind: Met["kind"]): number => plan.met.filter((one) => one.kind === kind).length;
  const real = takeReal(plan, met, { draw, count: plan.quota - count("real") });
  const total = count("real") + real.length;
  const golds = real.length === 0 ? 0 : Math.round(total * plan.goldShare) - count("gold");
  const repeats = real.length === 0 ? 0 : Math.round(total * plan.repeatShare) - count("repeat");
  const gold = takeGold(plan, met, { draw, count: golds });
  const order = shuffled([...real, ...gold], draw);
  const all = withRepeats(order, { draw, count: repeats });
  return all.map((one, index) => ({ ...one, number: plan.met.length + index }));
}

interface Wanted {
  draw: RandomStream;
  count: number;
}

/** Those with fewest ratings first; among them, questions that this rater has seen least. */
function takeReal(plan: SessionPlan, met: Meetings, { draw, count }: Wanted): Met[] {
  const taken: Met[] = [];
  const left = shuffled(plan.items, draw)
    .filter((item) => item.kind === "real" && ratingsOf(item) < plan.ratings && !met.has(item))
    .toSorted((a, b) => ratingsOf(a) - ratingsOf(b));
  while (taken.length < count && left.length > 0) {
    const fewest = ratingsOf(left[0]!);
    let best = 0;
    for (let i = 0; i < left.length && ratingsOf(left[i]!) === fewest; i++)
      if (met.questionCount(left[i]!) < met.questionCount(left[best]!)) best = i;
    const item = left.splice(best, 1)[0]!;
    met.add(item);
    taken.push({ itemId: item.id, kind: "real", left: sideOf(item) });
  }
  return taken;
}

function takeGold(plan: SessionPlan, met: Meetings, { draw, count }: Wanted): Met[] {
  const taken: Met[] = [];
  for (const item of shuffled(plan.items, draw).toSorted((a, b) => ratingsOf(a) - ratingsOf(b))) {
    if (taken.length >= count) break;
    if (item.kind !== "gold" || met.has(item)) continue;
    met.add(item);
    taken.push({ itemId: item.id, kind: "gold", left: sideOf(item) });
  }
  return taken;
}

/** Repeats of the first half go into the second, so that the answer is not remembered but given again. */
function withRepeats(order: readonly Met[], { draw, count }: Wanted): Met[] {
  const all = [...order];
  const half = Math.ceil(order.length / 2);
  const early = order.slice(0, half).filter((one) => one.kind === "real");
  for (const one of shuffled(early, draw).slice(0, Math.max(0, count))) {
    // Never right behind its first meeting: with one item there is no other place, and then no repeat.
    if (order.length < 3) break;
    const place = Math.max(half + 1, all.indexOf(one) + 2) + draw.below(half);
    all.splice(Math.min(all.length, place), 0, {
      ...one,
      kind: "repeat",
      left: one.left === "a" ? "b" : "a",
    });
  }
  return all;
}

const shuffled = <T>(list: readonly T[], draw: RandomStream): T[] =>
  draw.sample(list.length, list.length).map((index) => list[index]!);

const ratingsOf = (item: OpenItem): number => item.onLeft.a + item.onLeft.b;

/** The side that has been seen less often; at first the item's own. */
const sideOf = ({ onLeft, firstLeft }: OpenItem): Side =>
  onLeft.a === onLeft.b ? firstLeft : onLeft.a < onLeft.b ? "a" : "b";

/** What a rater has seen: pairs on questions, and questions. */
class Meetings {
  readonly #pairs = new Set<string>();
  readonly #questions = new Map<string, number>();

  constructor(items: readonly OpenItem[], met: readonly Met[]) {
    const byId = new Map(items.map((item) => [item.id, item]));
    for (const { itemId } of met) {
      const item = byId.get(itemId);
      if (item !== undefined) this.add(item);
    }
  }

  has(item: OpenItem): boolean {
    return this.#pairs.has(pairKey(item));
  }

  questionCount(item: OpenItem): number {
    return this.#questions.get(item.question) ?? 0;
  }

  add(item: OpenItem): void {
    this.#pairs.add(pairKey(item));
    this.#questions.set(item.question, this.questionCount(item) + 1);
  }
}

const pairKey = ({ question, systemA, systemB }: OpenItem): string =>
  JSON.stringify([question, ...[systemA, systemB].toSorted()]);

/** Real items a rater is given, so that `raters` of them fill the study and none does more than one above another. */
export const quotaOf = (realItems: number, ratings: number, raters: number): number =>
  Math.min(realItems, Math.ceil((realItems * ratings) / Math.max(1, raters)));
