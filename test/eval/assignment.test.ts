import { describe, expect, test } from "bun:test";
import {
  type Met,
  type OpenItem,
  type PlannedItem,
  planItems,
  planSession,
  quotaOf,
} from "../../src/eval/assignment.ts";

const questions = Array.from({ length: 30 }, (_, i) => ({ id: `s/${i}`, set: "s" }));
const pairs = [
  ["all", "alpaca"],
  ["all", "distill"],
  ["all", "chat"],
] as const;
const plan = { questions, pairs, isAnswered: () => true, goldShare: 0.1, seed: 7 };

const opened = (items: readonly PlannedItem[]): OpenItem[] =>
  items.map((item, index) => ({ id: `i${index}`, ...item, onLeft: { a: 0, b: 0 } }));

interface Given extends Met {
  rater: number;
}

/** Raters one after the other, each planned on what the earlier ones left; `leave`: gives everything back. */
function run(given: { raters: number; ratings: number; seed: number; leave?: (rater: number) => boolean }) {
  const items = opened(planItems({ ...plan, seed: given.seed }));
  const real = items.filter(({ kind }) => kind === "real");
  const quota = quotaOf(real.length, given.ratings, given.raters);
  const all: Given[] = [];
  const sessions: Met[][] = [];
  const leavers = Array.from({ length: given.raters }, (_, i) => i).filter((i) => given.leave?.(i)).length;
  for (let rater = 0; rater < given.raters + leavers; rater++) {
    const shares = { goldShare: 0.1, repeatShare: 0.05 };
    const { ratings, seed } = given;
    const session = planSession({ items, ratings, met: [], quota, ...shares, seed, stream: `r${rater}` });
    if (rater < given.raters && given.leave?.(rater)) continue;
    sessions.push(session);
    for (const one of session) {
      all.push({ ...one, rater });
      if (one.kind !== "repeat") items.find(({ id }) => id === one.itemId)!.onLeft[one.left]++;
    }
  }
  return { items, real, all, sessions, quota };
}

describe("items", () => {
  test("are every pair on every answered question, and golds of both kinds", () => {
    const items = planItems({
      ...plan,
      isAnswered: ({ question, system }) => !(question === "s/3" && system === "chat"),
    });
    const real = items.filter(({ kind }) => kind === "real");
    expect(real).toHaveLength(89);
    const golds = items.filter(({ kind }) => kind === "gold");
    expect(golds).toHaveLength(9);
    for (const { question, answers, expected, systemA, systemB } of golds) {
      if (expected === "tie") {
        expect(answers.a).toEqual(answers.b);
        expect(answers.a.question).toBe(question);
        continue;
      }
      const [right, wrong] = expected === "a" ? [answers.a, answers.b] : [answers.b, answers.a];
      expect(right).toEqual({ question, system: expected === "a" ? systemA : systemB });
      expect(wrong.question).not.toBe(question);
      expect(wrong.system).toBe(expected === "a" ? systemB : systemA);
    }
    expect(new Set(golds.map(({ expected }) => expected))).toEqual(new Set(["tie", "a", "b"]));
    const lefts = real.filter(({ firstLeft }) => firstLeft === "a").length;
    expect(Math.abs(lefts - 44.5)).toBeLessThan(1);
  });

  test("are the same for the same seed, and others for another", () => {
    expect(planItems(plan)).toEqual(planItems(plan));
    expect(planItems(plan)).not.toEqual(planItems({ ...plan, seed: 8 }));
  });
});

describe.each([
  { raters: 9, ratings: 3, seed: 1 },
  { raters: 10, ratings: 3, seed: 2 },
  { raters: 27, ratings: 5, seed: 3 },
  { raters: 3, ratings: 3, seed: 4 },
  { raters: 100, ratings: 2, seed: 5 },
])("a study of $raters raters and $ratings ratings an item", (given) => {
  const { items, real, all, sessions, quota } = run(given);

  test("gives each item its ratings, neither fewer nor more", () => {
    expect(real.map(({ onLeft }) => onLeft.a + onLeft.b)).toEqual(real.map(() => given.ratings));
  });

  test("balances sides inside each item and over all", () => {
    for (const { onLeft } of real)
      expect(Math.abs(onLeft.a - onLeft.b)).toBeLessThanOrEqual(given.ratings % 2);
    const left = real.reduce((sum, { onLeft }) => sum + onLeft.a, 0);
    expect(Math.abs(left / (real.length * given.ratings) - 0.5)).toBeLessThan(0.01);
  });

  test("shows nobody a question twice for a pair, but in repeats, later and swapped", () => {
    const byId = new Map(items.map((item) => [item.id, item]));
    for (const session of sessions) {
      const keys = session
        .filter(({ kind }) => kind !== "repeat")
        .map(({ itemId }) => `${byId.get(itemId)!.question} ${byId.get(itemId)!.systemB}`);
      expect(new Set(keys).size).toBe(keys.length);
      session.forEach((one, place) => {
        if (one.kind !== "repeat") return;
        const first = session.findIndex(({ itemId }) => itemId === one.itemId);
        expect(first).toBeLessThan(place - 1);
        expect(session[first]).toMatchObject({ kind: "real", left: one.left === "a" ? "b" : "a" });
      });
    }
  });

  test("gives raters equal loads, with their shares of golds and repeats", () => {
    const loads = sessions.map((session) => session.filter(({ kind }) => kind === "real").length);
    expect(Math.max(...loads)).toBe(quota);
    // What does not divide evenly is missing at the last ones.
    expect(loads.filter((load) => load < quota && load > 0).length).toBeLessThanOrEqual(1);
    for (const session of sessions) {
      const count = (kind: string) => session.filter((one) => one.kind === kind).length;
      // Who rates everything has met every gold's question: then the rule above goes first.
      const golds = count("real") === real.length ? 0 : Math.min(9, Math.round(count("real") * 0.1));
      expect(count("gold")).toBe(golds);
      expect(count("repeat")).toBeLessThanOrEqual(Math.round(count("real") * 0.05));
    }
    expect(all.filter(({ kind }) => kind === "real")).toHaveLength(real.length * given.ratings);
  });

  test("orders items differently for each rater, and equally for the same seed", () => {
    const orders = sessions
      .filter((one) => one.length > 3)
      .map((one) => one.map(({ itemId }) => itemId).join());
    expect(new Set(orders).size).toBe(orders.length);
    expect(run(given).all).toEqual(all);
  });
});

test("what leavers give back is taken up by others", () => {
  const { real } = run({ raters: 12, ratings: 3, seed: 6, leave: (rater) => rater % 3 === 0 });
  expect(real.every(({ onLeft }) => onLeft.a + onLeft.b === 3)).toBe(true);
});

test("a rater who comes back gets what is missing of the quota, and nothing met before", () => {
  const items = opened(planItems(plan));
  const shares = { goldShare: 0.1, repeatShare: 0.05, ratings: 3, quota: 20, seed: 1 };
  const first = planSession({ items, met: [], ...shares, stream: "x" }).slice(0, 7);
  const rest = planSession({ items, met: first, ...shares, stream: "y" });
  const real = [...first, ...rest].filter(({ kind }) => kind === "real");
  expect(real).toHaveLength(20);
  expect(new Set(real.map(({ itemId }) => itemId)).size).toBe(20);
  expect(rest[0]!.number).toBe(7);
});
