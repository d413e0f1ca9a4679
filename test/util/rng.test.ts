/** The random numbers against the known answers that the Random123 library publishes (tests/kat_vectors). */
import { expect, test } from "bun:test";
import { philox4x32, uniform } from "../../src/util/rng.ts";

const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, "0")).join(" ");

test("Philox4x32-10 gives the words of Random123's known-answer file", () => {
  expect(hex(philox4x32([0, 0], [0, 0, 0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
  const ones = 0xffffffff;
  expect(hex(philox4x32([ones, ones], [ones, ones, ones, ones]))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
  expect(hex(philox4x32([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]))).toBe(
    "d16cfe09 94fdcceb 5001e420 24126ea1",
  );
});

test("a draw depends on seed and index only and lies in [0, 1)", () => {
  const forwards = Array.from({ length: 100 }, (_, index) => uniform(7, index));
  const backwards = Array.from({ length: 100 }, (_, index) => uniform(7, 99 - index)).reverse();
  expect(backwards).toEqual(forwards);
  expect(new Set(forwards).size).toBe(100);
  expect(uniform(8, 0)).not.toBe(uniform(7, 0));
  for (const value of forwards) expect(value >= 0 && value < 1).toBe(true);
});

test("a hundred thousand draws fill sixteen equal bins evenly", () => {
  const bins = Array.from({ length: 16 }, () => 0);
  const count = 100_000;
  for (let index = 0; index < count; index++) bins[Math.floor(uniform(123, index) * 16)]!++;
  const chiSquare = bins.reduce((sum, seen) => sum + (seen - count / 16) ** 2 / (count / 16), 0);
  // 99.9 % quantile of chi square with 15 degrees of freedom is 37.7.
  expect(chiSquare).toBeLessThan(37.7);
});
