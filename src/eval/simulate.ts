/** Simulated raters with known preferences: a whole study's votes without people, to test statistics and to plan.
 *  Always: the same options give the same votes; the model is the one that power figures integrate (statistics/rater_model). */
import type { Question, Verdict, Vote } from "./comparison.ts";
import { RandomStream } from "./statistics/random.ts";
import { defaultRaterModel, type RaterModel } from "./statistics/rater_model.ts";
import type { Pair } from "./study_data.ts";

export interface SimulationOptions {
  questions: readonly Pick<Question, "id" | "set">[];
  /** `gap` is the mean latent gap by which a is better than b (`gapForScore` gives it for a score). */
  pairs: readonly { pair: Pair; gap: number }[];
  /** People. */
  raters: number;
  /** Votes on each prompt and pair, by different people. */
  ratings: number;
  seed: number;
  model?: RaterModel;
  /** Draw the side of each vote (default), or always put a on the left, as nobody should. */
  drawSides?: boolean;
  /** Golds and swapped repeats, as shares of the real votes. */
  goldShare?: number;
  repeatShare?: number;
}

/** Random clickers get golds wrong two times in three and answer in about two seconds, others in about twenty. */
export function simulateVotes(options: SimulationOptions): Vote[] {
  const random = new RandomStream(options.seed, "simulated votes");
  const model = options.model ?? defaultRaterModel;
  const raters = Array.from({ length: options.raters }, (_, index) => drawRater(index, model, random));
  const votes: Vote[] = [];
  for (const { pair, gap } of options.pairs) {
    for (const { id, set } of options.questions) {
      const gapHere = random.normal(gap, model.gapDeviation);
      for (const index of random.sample(raters.length, options.ratings)) {
        const rater = raters[index]!;
        const left = options.drawSides === false || random.next() < 0.5 ? "a" : "b";
        const item = { question: id, set, systemA: pair[0], systemB: pair[1], rater: rater.name };
        const cast = (side: "a" | "b", kind: Vote["kind"], expected: Verdict | null): Vote => ({
          ...item,
          verdict: kind === "gold" ? onGold(expected!, rater, random) : onPair(gapHere, side, rater, random),
          left: side,
          kind,
          expected,
          criterion: "overall",
          dwellMs: dwellOf(rater, random),
          note: null,
          time: firstVote + 1000 * votes.length,
        });
        votes.push(cast(left, "real", null));
        if (random.next() < (options.goldShare ?? 0)) votes.push(cast(left, "gold", gold(random)));
        if (random.next() < (options.repeatShare ?? 0)) {
          votes.push(cast(left === "a" ? "b" : "a", "repeat", null));
        }
      }
    }
  }
  return votes;
}

/** 3 April 2023, the day of Koala's post. */
const firstVote = Date.UTC(2023, 3, 3);

interface Rater {
  name: string;
  leftBias: number;
  tieBand: number;
  noise: number;
  clicker: boolean;
}

const drawRater = (index: number, model: RaterModel, random: RandomStream): Rater => ({
  name: `rater-${String(index + 1).padStart(3, "0")}`,
  leftBias: random.normal(model.leftBias, model.leftBiasDeviation),
  tieBand: Math.abs(random.normal(model.tieBand, model.tieBandDeviation)),
  noise: model.noise,
  clicker: random.next() < model.clickers,
});

function onPair(gap: number, left: "a" | "b", rater: Rater, random: RandomStream): Verdict {
  if (rater.clicker) return click(random);
  const felt = gap + (left === "a" ? 1 : -1) * rater.leftBias + random.normal(0, rater.noise);
  return Math.abs(felt) < rater.tieBand ? "tie" : felt > 0 ? "a" : "b";
}

const click = (random: RandomStream): Verdict => (["a", "tie", "b"] as const)[random.below(3)]!;

const gold = (random: RandomStream): Verdict => (["a", "b", "tie"] as const)[random.below(3)]!;

/** An honest rater misses one gold in twenty. */
const onGold = (expected: Verdict, rater: Rater, random: RandomStream): Verdict =>
  rater.clicker || random.next() < 0.05 ? click(random) : expected;

/** Log-normal milliseconds. */
const dwellOf = (rater: Rater, random: RandomStream): number =>
  Math.round((rater.clicker ? 2000 : 20_000) * Math.exp(random.normal(0, 0.6)));
