import { expect, test } from "bun:test";
import { learningRate, type ScheduleConfig } from "../../src/train/schedule.ts";

const schedule =
  (config: Partial<ScheduleConfig>) =>
  (step: number, steps = 100) =>
    learningRate(
      { type: "constant", learningRate: 1, warmupSteps: 10, floor: 0, decayShare: 0.2, ...config },
      step,
      steps,
    );

test("every schedule warms up in equal steps to the peak", () => {
  for (const type of ["constant", "linear", "cosine", "wsd"] as const) {
    const rate = schedule({ type });
    expect([0, 4, 9, 10].map((step) => rate(step))).toEqual([0.1, 0.5, 1, 1]);
  }
});

test("cosine, linear and WSD follow their formulas down to the floor", () => {
  const half = 10 + 45;
  expect(schedule({ type: "cosine" })(half)).toBeCloseTo(0.5, 12);
  expect(schedule({ type: "cosine", floor: 0.1 })(10 + 30)).toBeCloseTo(0.1 + 0.9 * 0.75, 12); // cos(pi/3) = 1/2
  expect(schedule({ type: "linear", floor: 0.2 })(half)).toBeCloseTo(0.6, 12);
  expect(schedule({ type: "constant", floor: 0.2 })(99)).toBe(1);
  const wsd = schedule({ type: "wsd" });
  expect([81, 82, 91, 100].map((step) => wsd(step))).toEqual(
    [1, 1, 0.5, 0].map((rate) => expect.closeTo(rate, 12)),
  );
});

test("without warm-up the first step has the peak", () => {
  expect(schedule({ type: "cosine", warmupSteps: 0 })(0)).toBe(1);
});
