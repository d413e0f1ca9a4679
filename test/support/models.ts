/** Small real and random models for tests, opened with their own arenas. */
import { loadRunner, type RunnerOptions, defaultRunnerOptions } from "../../src/engine/load_runner.ts";

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
