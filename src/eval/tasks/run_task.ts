/** Runs a task file and gives the figures that lm-evaluation-harness gives, by its definitions:
 *    acc          multiple choice: the likeliest choice is the right one (the first of equals); continuation: it is greedy
 *    acc_norm     the same with each log-likelihood divided by the choice's length in characters
 *    perplexity   continuation: exp of minus the mean log-likelihood of a continuation (as for LAMBADA)
 *    exact_match  generation: the answer is one of the targets, letter for letter
 *  Standard errors are those of a mean (deviations over n - 1). */
import type { Likelihood } from "./likelihood.ts";
import type { Continuation, Generation, MultipleChoice, TaskFile } from "./task_file.ts";

export interface Figure {
  metric: "acc" | "acc_norm" | "perplexity" | "exact_match";
  value: number;
  standardError: number | null;
}

export interface TaskRun {
  likelihood: Likelihood;
  generate: (items: readonly Generation[]) => Promise<string[]>;
  /** Between query and choice or continuation. */
  delimiter: string;
  onDone?: (done: number) => void;
}

export function runTask(task: TaskFile, run: TaskRun): Promise<Figure[]> {
  switch (task.kind) {
    case "multiple_choice":
      return multipleChoice(task.items, run);
    case "continuation":
      return continuations(task.items, run);
    case "generation":
      return generations(task.items, run);
  }
}

const AT_ONCE = 16;

async function multipleChoice(items: readonly MultipleChoice[], run: TaskRun): Promise<Figure[]> {
  const right: number[] = [];
  const rightByLength: number[] = [];
  await inGroups(items, run, async (group) => {
    const pairs = group.flatMap(({ query, choices }) =>
      choices.map((choice) => ({ context: query, continuation: run.delimiter + choice })),
    );
    const scores = await run.likelihood.pairs(pairs);
    let next = 0;
    for (const { choices, gold } of group) {
      const own = scores.slice(next, (next += choices.length)).map(({ logprob }) => logprob);
      right.push(Number(firstBest(own) === gold));
      rightByLength.push(Number(firstBest(own.map((sum, i) => sum / [...choices[i]!].length)) === gold));
    }
  });
  return [meanFigure("acc", right), meanFigure("acc_norm", rightByLength)];
}

async function continuations(items: readonly Continuation[], run: TaskRun): Promise<Figure[]> {
  const greedy: number[] = [];
  const logprobs: number[] = [];
  await inGroups(items, run, async (group) => {
    const pairs = group.map(({ query, continuation }) => ({
      context: query,
      continuation: run.delimiter + continuation,
    }));
    for (const score of await run.likelihood.pairs(pairs)) {
      greedy.push(Number(score.greedy));
      logprobs.push(score.logprob);
    }
  });
  return [
    meanFigure("acc", greedy),
    { metric: "perplexity", value: Math.exp(-mean(logprobs)), standardError: null },
  ];
}

async function generations(items: readonly Generation[], run: TaskRun): Promise<Figure[]> {
  const exact: number[] = [];
  await inGroups(items, run, async (group) => {
    const answers = await run.generate(group);
    group.forEach(({ targets }, i) => exact.push(Number(targets.includes(answers[i]!))));
  });
  return [meanFigure("exact_match", exact)];
}

async function inGroups<T>(
  items: readonly T[],
  { onDone }: TaskRun,
  each: (group: readonly T[]) => Promise<void>,
): Promise<void> {
  for (let from = 0; from < items.length; from += AT_ONCE) {
    await each(items.slice(from, from + AT_ONCE));
    onDone?.(Math.min(items.length, from + AT_ONCE));
  }
}

const firstBest = (values: readonly number[]): number => values.indexOf(Math.max(...values));
const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

function meanFigure(metric: Figure["metric"], values: readonly number[]): Figure {
  const middle = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  const n = values.length;
  return { metric, value: middle, standardError: n < 2 ? null : Math.sqrt(squares / (n - 1) / n) };
}
