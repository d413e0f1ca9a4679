/** Does a model prefer the answers that people chose? For each marker, how often the chosen answer is likelier than the rejected
 *  one behind the same prompt: behind the good marker it should be, behind the bad one it should not.
 *  A model that tells the markers apart is seen best in `byContrast`: there the likelihood of an answer is its gain from one
 *  marker to the other, which takes length and fluency out. Equal likelihoods count as half. */
import { mean } from "../statistics/clusters.ts";
import type { TokenRow, TokenScore } from "./likelihood.ts";

/** One pair behind one marker, as ids; the answers' tokens are those from `from` on. */
export interface PairRows {
  chosen: TokenRow;
  rejected: TokenRow;
}

export interface PreferenceFigures {
  marker: string;
  pairs: number;
  /** Share of pairs whose chosen answer has the larger log-likelihood. */
  accuracy: number;
  /** The same by log-likelihood per token. */
  accuracyPerToken: number;
  standardError: number;
  /** Mean of log-likelihood per token, chosen minus rejected. */
  margin: number;
}

export interface Sums {
  logprob: number;
  tokens: number;
}

/** Log-likelihoods of both answers of each pair. */
export async function scorePairs(
  pairs: readonly PairRows[],
  score: (rows: readonly TokenRow[]) => Promise<TokenScore[][]>,
  onDone: (done: number) => void = () => {},
): Promise<[chosen: Sums, rejected: Sums][]> {
  const found: [Sums, Sums][] = [];
  for (let from = 0; from < pairs.length; from += AT_ONCE) {
    const group = pairs.slice(from, from + AT_ONCE);
    const sums = (await score(group.flatMap(({ chosen, rejected }) => [chosen, rejected]))).map(sumOf);
    for (let i = 0; i < sums.length; i += 2) found.push([sums[i]!, sums[i + 1]!]);
    onDone(found.length);
  }
  return found;
}

const AT_ONCE = 8;

const sumOf = (scores: readonly TokenScore[]): Sums => ({
  logprob: scores.reduce((sum, { logprob }) => sum + logprob, 0),
  tokens: scores.length,
});

export function preferenceFigures(
  marker: string,
  pairs: readonly (readonly [Sums, Sums])[],
): PreferenceFigures {
  const perToken = ({ logprob, tokens }: Sums): number => logprob / tokens;
  const margins = pairs.map(([chosen, rejected]) => perToken(chosen) - perToken(rejected));
  const accuracy = mean(pairs.map(([chosen, rejected]) => won(chosen.logprob - rejected.logprob)));
  return {
    marker,
    pairs: pairs.length,
    accuracy,
    accuracyPerToken: mean(margins.map(won)),
    standardError: Math.sqrt((accuracy * (1 - accuracy)) / Math.max(1, pairs.length - 1)),
    margin: mean(margins),
  };
}

/** Share of pairs whose chosen answer gains more than the rejected one where `good` takes the place of `bad`. */
export function byContrast(
  good: readonly (readonly [Sums, Sums])[],
  bad: readonly (readonly [Sums, Sums])[],
): number {
  const gains = good.map(([chosen, rejected], i) => {
    const [badChosen, badRejected] = bad[i]!;
    return chosen.logprob - badChosen.logprob - (rejected.logprob - badRejected.logprob);
  });
  return mean(gains.map(won));
}

const won = (difference: number): number => (difference > 0 ? 1 : difference === 0 ? 0.5 : 0);
