/** What a study of a given size can see, before it starts: power, width of its interval, smallest detectable difference.
 *  The model's moments are integrated, and the mean over prompts is taken as normal (a simulation confirms both: eval/simulate). */
import { normalCdf, normalQuantile } from "./normal.ts";
import { defaultRaterModel, gapForScore, type RaterModel, scoreMoments } from "./rater_model.ts";

export interface StudySize {
  prompts: number;
  /** Votes on each prompt. */
  ratings: number;
  model?: RaterModel;
  /** Of the two-sided test; 0.05 by default. */
  level?: number;
}

export interface Power {
  /** Chance that the interval of the score excludes one half. */
  power: number;
  /** Of the score's interval. */
  halfWidth: number;
  standardError: number;
}

export function power(size: StudySize & { trueScore: number }): Power {
  const model = size.model ?? defaultRaterModel;
  const moments = scoreMoments(gapForScore(size.trueScore, model), model);
  const standardError = Math.sqrt(
    (moments.varianceBetween + moments.varianceWithin / size.ratings) / size.prompts,
  );
  return { ...powerOf(size.trueScore - 0.5, standardError, size.level ?? 0.05), standardError };
}

/** The smallest true score above one half that is seen with the wanted power (0.8 by default). */
export function detectableScore(size: StudySize & { power?: number }): number {
  let [low, high] = [0.5, 0.999];
  for (let step = 0; step < 30; step++) {
    const middle = (low + high) / 2;
    if (power({ ...size, trueScore: middle }).power < (size.power ?? 0.8)) low = middle;
    else high = middle;
  }
  return high;
}

/** From the standard error that a study did have: the difference from one half that it sees with power 0.8. */
export function detectableDifference(standardError: number, wanted = 0.8, level = 0.05): number {
  return (normalQuantile(1 - level / 2) + normalQuantile(wanted)) * standardError;
}

function powerOf(difference: number, standardError: number, level: number) {
  const z = normalQuantile(1 - level / 2);
  const shift = difference / standardError;
  return { power: normalCdf(shift - z) + normalCdf(-shift - z), halfWidth: z * standardError };
}
