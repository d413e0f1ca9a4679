import { describe, expect, test } from "bun:test";
import { figure, percent, span, ticks } from "../../../../src/server/web/training/format.ts";

describe("figures", () => {
  test.each([
    [0, "0"],
    [1.23456, "1.235"],
    [0.012345, "0.01235"],
    [0.00002, "2.00e-5"],
    [12_345.6, "12,346"],
    [3e9, "3.00e9"],
    [null, "–"],
    [Number.NaN, "–"],
  ])("%p is written %s", (value, text) => expect(figure(value)).toBe(text));

  test("shares and spans of time", () => {
    expect([percent(0.4567), percent(null)]).toEqual(["45.7 %", "–"]);
    expect([0.2, 59.4, 95, 3725, 90_061].map(span)).toEqual([
      "0 s",
      "59 s",
      "1 min 35 s",
      "1 h 2 min",
      "1 d 1 h",
    ]);
  });
});

describe("ticks", () => {
  test("are round, within the range and not too many", () => {
    expect(ticks(0, 2, 4)).toEqual([0, 0.5, 1, 1.5, 2]);
    expect(ticks(1, 400, 4)).toEqual([100, 200, 300, 400]);
    expect(ticks(-3e-5, 7e-5, 4)).toEqual([-0, 5e-5].map((value) => value + 0));
    for (let i = 0; i < 500; i++) {
      const low = Math.sin(i) * 10 ** (i % 9);
      const high = low + 10 ** ((i % 13) - 6) * (1 + (i % 7));
      const found = ticks(low, high, 4);
      // They are rounded to twelve digits.
      const slack = (high - low) * 1e-6 + Math.abs(high) * 1e-11;
      expect(found.length).toBeLessThanOrEqual(6);
      for (const value of found) {
        expect(value).toBeGreaterThanOrEqual(low - slack);
        expect(value).toBeLessThanOrEqual(high + slack);
      }
    }
  });

  test("of one value are that value", () => expect(ticks(3, 3, 4)).toEqual([3]));
});
