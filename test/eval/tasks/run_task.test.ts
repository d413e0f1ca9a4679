/** Tasks and preferences with planted likelihoods: figures by lm-evaluation-harness's definitions, done by hand. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { byContrast, preferenceFigures, scorePairs } from "../../../src/eval/tasks/preferences.ts";
import type { Likelihood, Pair } from "../../../src/eval/tasks/likelihood.ts";
import { runTask } from "../../../src/eval/tasks/run_task.ts";
import { readTaskFile } from "../../../src/eval/tasks/task_file.ts";
import { temporaryFolder } from "../../support/temporary.ts";

const folder = temporaryFolder("tasks");

async function file(lines: unknown[]): Promise<string> {
  const path = join(folder, `${Math.random()}.jsonl`);
  await Bun.write(path, lines.map((line) => JSON.stringify(line)).join("\n"));
  return path;
}

const planted = (logprobOf: (pair: Pair) => number): Likelihood => ({
  pairs: async (pairs) =>
    pairs.map((pair) => ({ logprob: logprobOf(pair), tokens: 1, greedy: pair.continuation.includes("!") })),
  rolling: async () => ({ logprob: 0, tokens: 0, greedy: false }),
});

const run = async (path: string, logprobOf: (pair: Pair) => number, answers: string[] = []) =>
  runTask(await readTaskFile(path), {
    likelihood: planted(logprobOf),
    generate: async () => answers,
    delimiter: " ",
  });

describe("multiple choice", () => {
  test("acc takes the likeliest, acc_norm the likeliest per character, ties the first; gold by number or text", async () => {
    const path = await file([
      { query: "q", choices: ["no", "a longer yes"], gold: 1 },
      { query: "q", choices: ["tie", "eit"], gold: "eit" },
      { query: "q", choices: ["tie", "eit"], gold: 0 },
    ]);
    const logprobs: Record<string, number> = { " no": -2, " a longer yes": -3, " tie": -1, " eit": -1 };
    const figures = await run(path, ({ continuation }) => logprobs[continuation]!);
    expect(figures.map(({ metric, value }) => [metric, value])).toEqual([
      ["acc", 1 / 3],
      ["acc_norm", 2 / 3],
    ]);
    expect(figures[0]!.standardError).toBeCloseTo(1 / 3, 12);
  });

  test("58 of 60 have the standard error that the harness prints", async () => {
    const items = Array.from({ length: 60 }, (_, i) => ({
      query: "q",
      choices: ["a", "b"],
      gold: i < 58 ? 0 : 1,
    }));
    const [acc] = await run(await file(items), ({ continuation }) => (continuation === " a" ? -1 : -2));
    expect([acc!.value.toFixed(4), acc!.standardError!.toFixed(4)]).toEqual(["0.9667", "0.0234"]);
  });
});

test("a continuation counts where it is greedy, and its perplexity is per item", async () => {
  const path = await file([
    { query: "Once upon a", continuation: "time!" },
    { query: "x", continuation: "y" },
  ]);
  const figures = await run(path, ({ continuation }) => (continuation === " y" ? -3 : -1));
  expect(figures.map(({ metric, value }) => [metric, value])).toEqual([
    ["acc", 0.5],
    ["perplexity", Math.exp(2)],
  ]);
});

test("an answer is exact letter for letter, for any of its targets", async () => {
  const path = await file([
    { query: "q", target: ["4", "four"], until: ["\n"] },
    { query: "q", target: "4" },
  ]);
  const [figure] = await run(path, () => 0, ["four", "4 "]);
  expect([figure!.metric, figure!.value]).toEqual(["exact_match", 0.5]);
});

test("a wrong line is named", async () => {
  const choices = await file([{ query: "q", choices: ["a", "b"], gold: "c" }]);
  expect(readTaskFile(choices)).rejects.toThrow(/line 1: "gold" is wrong: "c" is none of the 2 choices\./);
  const missing = await file([{ query: "q", choices: ["a", "b"], gold: 0 }, { query: "q" }]);
  expect(readTaskFile(missing)).rejects.toThrow(/line 2: "choices" is missing/);
});

describe("preferences", () => {
  const sums = (logprob: number, tokens: number) => ({ logprob, tokens });

  test("by sum, per token, and by the gain from one marker to the other", () => {
    const good = [
      [sums(-4, 4), sums(-6, 3)],
      [sums(-9, 9), sums(-3, 2)],
      [sums(-5, 5), sums(-5, 5)],
    ] as const;
    const bad = [
      [sums(-5, 4), sums(-5, 3)],
      [sums(-12, 9), sums(-4, 2)],
      [sums(-5, 5), sums(-4, 5)],
    ] as const;
    const figures = preferenceFigures("positive", good);
    expect(figures).toMatchObject({ pairs: 3, accuracy: 0.5, accuracyPerToken: 2.5 / 3 });
    expect(figures.margin).toBeCloseTo((1 + 0.5 + 0) / 3, 12);
    // Gains of the chosen less gains of the rejected: 1 - -1, 3 - 1, 0 - -1.
    expect(byContrast(good, bad)).toBe(1);
    expect(byContrast(bad, good)).toBe(0);
  });

  test("both sides of every pair are scored, in order, a few pairs at a time", async () => {
    const pairs = Array.from({ length: 21 }, (_, i) => ({
      chosen: { ids: [0, i + 1], from: 1 },
      rejected: { ids: [0, i + 1, i + 1], from: 1 },
    }));
    const sizes: number[] = [];
    const found = await scorePairs(pairs, async (rows) => {
      sizes.push(rows.length);
      return rows.map(({ ids, from }) => ids.slice(from).map((id) => ({ logprob: -id, greedy: false })));
    });
    expect(found).toEqual(pairs.map((_, i) => [sums(-i - 1, 1), sums(-2 * i - 2, 2)]));
    expect(Math.max(...sizes)).toBeLessThanOrEqual(16);
  });
});
