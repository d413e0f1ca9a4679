import { expect, test } from "bun:test";
import { closest } from "../../src/util/closest.ts";

test.each([
  ["raterss", "raters"],
  ["rater", "raters"],
  ["optoinal", "optional"],
  ["sed", "seed"],
  ["banana", null],
])("%s was meant as %p", (name, meant) => {
  expect(closest(name, ["raters", "optional", "seed", "weight"])).toBe(meant);
});
