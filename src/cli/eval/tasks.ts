/** `koala eval tasks`: multiple choice, log-likelihood and exact-match tasks from files. */
import { basename } from "node:path";
import type { Command } from "commander";
import { runTask, type Figure } from "../../eval/tasks/run_task.ts";
import { readTaskFile, type TaskFile } from "../../eval/tasks/task_file.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { addScoredModelFlags, openScoredModel, type ScoredModelFlags } from "./scored_model.ts";

export function registerTasks(verb: Command): void {
  const command = verb
    .command("tasks <model> <files...>")
    .description(
      "tasks of JSON lines: {query, choices, gold} gives acc and acc_norm, {query, continuation} acc and perplexity, {query, target, until} exact_match",
    )
    .option("--delimiter <text>", "between a query and a choice or continuation", " ");
  addScoredModelFlags(command).action(run);
}

interface Line extends Figure {
  task: string;
  items: number;
}

async function run(
  name: string,
  files: string[],
  flags: ScoredModelFlags & { delimiter: string },
): Promise<void> {
  const tasks: [string, TaskFile][] = [];
  for (const path of files) tasks.push([basename(path), await readTask(path)]);
  const model = await openScoredModel(name, flags);
  const lines: Line[] = [];
  try {
    for (const [task, file] of tasks) {
      const progress = new Progress("items");
      const figures = await runTask(file, {
        likelihood: model.likelihood(),
        generate: (items) => model.generate(items),
        delimiter: flags.delimiter,
        onDone: (done) => progress.update(task, done, file.items.length),
      });
      lines.push(...figures.map((figure) => ({ task, items: file.items.length, ...figure })));
    }
  } finally {
    await model.close();
  }
  if (flags.json) return console.log(JSON.stringify({ model: model.modelId, results: lines }, null, 2));
  const width = Math.max(4, ...lines.map(({ task }) => task.length));
  console.log(`${"task".padEnd(width)}  items  metric        value  standard error`);
  for (const { task, items, metric, value, standardError } of lines)
    console.log(
      `${task.padEnd(width)}  ${String(items).padStart(5)}  ${metric.padEnd(11)}  ${value.toFixed(4).padStart(6)}  ${standardError === null ? "-" : `±${standardError.toFixed(4)}`}`,
    );
}

async function readTask(path: string): Promise<TaskFile> {
  if (!(await Bun.file(path).exists())) throw new UsageError(`There is no file ${path}.`);
  const task = await readTaskFile(path);
  if (task.items.length === 0) throw new UsageError(`${path} is empty: it holds no tasks.`);
  return task;
}
