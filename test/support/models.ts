/** Small real and random models for tests, opened with their own arenas. */
import type { LlamaRunner } from "../../src/engine/llama_runner.ts";
import { loadRunner, type RunnerOptions, defaultRunnerOptions } from "../../src/engine/load_runner.ts";
import { greedy, type StepRow } from "../../src/engine/runner.ts";

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

/** A row over its own pages: sequence s owns pages 8s .. 8s+7. */
export const row = (s: number, tokens: number[], past: number, more: Partial<StepRow> = {}): StepRow => ({
  tokens,
  past,
  pages: Array.from({ length: 8 }, (_, i) => s * 8 + i),
  sample: null,
  score: null,
  embed: false,
  ...more,
});

/** The likeliest ids after the prompt, up to the end's where it is given. */
export function greedyIds(runner: LlamaRunner, prompt: number[], count: number, endId?: number): number[] {
  const out: number[] = [];
  let next = prompt;
  for (let past = 0; out.length < count; past += next.length, next = out.slice(-1)) {
    const id = runner.step([row(0, next, past, { sample: greedy })])[0]?.id ?? -1;
    out.push(id);
    if (id === endId) break;
  }
  return out;
}
