/** A text of any length as windows of the context's length, every token scored in exactly one of them. */

import { RequestError } from "../util/errors.ts";
import type { SequenceResult } from "./generation.ts";

export interface Window {
  ids: number[];
  /** The first scored index. */
  from: number;
}

/** `first` stands before the text. Windows after the first one overlap their predecessor by half a context,
 *  which is then context only: each scored token has at least that much before it. */
export function rollingWindows(ids: readonly number[], options: { first: number; length: number }): Window[] {
  const { length } = options;
  const all = [options.first, ...ids];
  const windows: Window[] = [{ ids: all.slice(0, length), from: 1 }];
  const stride = Math.max(Math.floor(length / 2), 1);
  for (let scored = length; scored < all.length; scored += stride) {
    const end = Math.min(scored + stride, all.length);
    const begin = Math.max(end - length, 0);
    windows.push({ ids: all.slice(begin, end), from: scored - begin });
  }
  return windows;
}

export interface Score {
  logLikelihood: number;
  isGreedy: boolean;
}

/** What a sequence that was only scored says about its window. */
export function windowScore(result: SequenceResult, window: Window): Score {
  if (result.promptLogprobs === null)
    throw new RequestError("The server stopped before this text was scored.", {
      status: 503,
      code: "aborted",
    });
  const scores = result.promptLogprobs.slice(window.from).filter((score) => score !== null);
  return {
    logLikelihood: scores.reduce((sum, score) => sum + score.logprob, 0),
    isGreedy: scores.every((score) => score.rank === 1),
  };
}

export const joinScores = (scores: readonly Score[]): Score => ({
  logLikelihood: scores.reduce((sum, score) => sum + score.logLikelihood, 0),
  isGreedy: scores.every((score) => score.isGreedy),
});
