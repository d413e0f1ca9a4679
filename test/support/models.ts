/** Small real and random models for tests, opened with their own arenas. */
import { loadRunner, type RunnerOptions, defaultRunnerOptions } from "../../src/engine/load_runner.ts";
import type { SampleRow } from "../../src/engine/runner.ts";

export const openModel = async (directory: string, options: Partial<RunnerOptions> = {}) =>
  (
    await loadRunner({
      ...defaultRunnerOptions,
      directory,
      threads: 1,
      cacheBytes: 64 * 2 ** 20,
      maxSequences: 8,
      ...options,
    })
  ).runner;

export const greedy: SampleRow = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  uniform: 0,
  history: [],
  counts: [],
  biasIds: [],
  biasValues: [],
  mask: null,
  logprobs: null,
};
