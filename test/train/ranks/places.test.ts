import { describe, expect, test } from "bun:test";
import { type Place, Places, worldOf } from "../../../src/train/ranks/places.ts";

const four = (ranksMin: number, microBatches = 4) =>
  new Places({
    places: Array.from({ length: 4 }, (_, index): Place => ({ index, device: `cuda:${index}` })),
    ranksMin,
    microBatches,
  });
const works = async () => null;
const broken =
  (...indexes: number[]) =>
  async ({ index }: Place) =>
    indexes.includes(index) ? "it did not answer within 60 s" : null;
const indexes = (places: Places) => places.chosen()?.map(({ index }) => index) ?? null;

test.each([
  // most, at least, micro-batches, ranks
  [3, 1, 4, 2],
  [3, 1, 6, 3],
  [3, 3, 4, 3],
  [7, 2, 8, 4],
  [7, 5, 8, 7],
  [5, 2, 7, 5],
])(
  "of %i ranks, at least %i, those that share %i micro-batches evenly are %i",
  (most, ranksMin, microBatches, world) => {
    expect(worldOf(most, { ranksMin, microBatches })).toBe(world);
  },
);

describe("the ranks of the next start", () => {
  test("are all as long as nobody is missing, whether they share evenly or not", async () => {
    const places = four(1, 5);
    expect(indexes(places)).toEqual([0, 1, 2, 3]);
    await places.learn({ index: 1, device: "" }, works);
    expect([indexes(places), places.absence()]).toEqual([[0, 1, 2, 3], ""]);
  });

  test("leave out a device that does not work, and take it again when it does", async () => {
    const places = four(2);
    await places.learn(null, broken(1));
    expect(indexes(places)).toEqual([0, 2]);
    expect(places.absence()).toBe(
      "2 of 4 ranks train on: rank 1 on cuda:1 is left out, because it has no device that works (it did not answer within 60 s) and rank 3 on cuda:3 rests, because the 4 micro-batches of a step divide by 2.",
    );
    await places.learn(null, works);
    expect([indexes(places), places.absence()]).toEqual([[0, 1, 2, 3], ""]);
  });

  test("leave out who failed twice without a new checkpoint, for good, but not where all must take part", async () => {
    const [places, all] = [four(1), four(4)];
    const culprit = { index: 2, device: "cuda:2" };
    for (const one of [places, all]) {
      await one.learn(culprit, works);
      one.progress();
      await one.learn(culprit, works);
      expect(indexes(one)).toHaveLength(4);
      await one.learn(culprit, works);
    }
    expect(indexes(places)).toEqual([0, 1]);
    places.progress();
    expect(indexes(places)).toEqual([0, 1]);
    expect(places.absence()).toContain(
      "rank 2 on cuda:2 is left out, because it failed 2 times without a new checkpoint",
    );
    expect(indexes(all)).toEqual([0, 1, 2, 3]);
  });

  test("are none where too few are left", async () => {
    const places = four(3);
    await places.learn(null, broken(0, 3));
    expect(indexes(places)).toBeNull();
    expect(places.absence()).toBe(
      "Rank 0 on cuda:0 is left out, because it has no device that works (it did not answer within 60 s) and rank 3 on cuda:3 is left out, because it has no device that works (it did not answer within 60 s). 3 ranks must take part, and 2 can: --min-ranks lets fewer go on.",
    );
  });
});
