/** Small real and random models for tests, opened with their own arenas. */
import { loadRunner, type RunnerOptions, defaultRunnerOptions } from "../../src/engine/load_runner.ts";

/** cpu, or the backend that KOALA_TEST_LIBRARY names (test/ffi/target.ts). */
export const testDevice = process.env.KOALA_TEST_LIBRARY || "cpu";

export const openModel = async (directory: string, options: Partial<RunnerOptions> = {}) =>
  (
    await loadRunner({
      ...defaultRunnerOptions,
      directory,
      device: testDevice,
      threads: 1,
      cacheBytes: 64 * 2 ** 20,
      maxSequences: 8,
      ...options,
    })
  ).runner;
