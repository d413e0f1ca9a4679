/** The learning rate of each step: warm-up from 0, then constant, linear, cosine, or WSD (warm-up, stable, decay; Hu et al. 2024). */

export interface ScheduleConfig {
  type: "constant" | "linear" | "cosine" | "wsd";
  /** The peak. */
  learningRate: number;
  warmupSteps: number;
  /** The rate at the end, as a share of the peak. */
  floor: number;
  /** WSD: share of the steps that the final decay takes. */
  decayShare: number;
}

/** The rate of step `step` (from 0) of `steps`. The first step of a warm-up of n has 1/n of the peak. */
export function learningRate(config: ScheduleConfig, step: number, steps: number): number {
  const { learningRate: peak, warmupSteps, floor } = config;
  if (step < warmupSteps) return (peak * (step + 1)) / warmupSteps;
  const done = Math.min(1, (step - warmupSteps) / Math.max(1, steps - warmupSteps));
  return peak * (floor + (1 - floor) * height(config, done));
}

/** From 1 down to 0 as `done` goes from 0 to 1. */
function height({ type, decayShare }: ScheduleConfig, done: number): number {
  switch (type) {
    case "constant":
      return 1;
    case "linear":
      return 1 - done;
    case "cosine":
      return (1 + Math.cos(Math.PI * done)) / 2;
    case "wsd":
      return done < 1 - decayShare ? 1 : (1 - done) / decayShare;
    default:
      return type satisfies never;
  }
}
