/** `koala data leak`: which questions of an evaluation stand in training data, by BLEU and by word n-grams. */
import { basename } from "node:path";
import type { Command } from "commander";
import { userTurns, type Dialogue } from "../../data/dialogue.ts";
import { Leakage, leakageOptions } from "../../data/filters/leakage.ts";
import { readLines, textLines } from "../../data/json_lines.ts";
import { leakPage } from "../../data/leak/leak_page.ts";
import { leakDefaults } from "../../data/leak/leak_index.ts";
import type { LeakReport } from "../../data/leak/leak_report.ts";
import { readQuestions, type Question } from "../../data/question_sets.ts";
import { fileLabels, readDialogues } from "../../data/sources/read.ts";
import { writeWhole } from "../../data/stages.ts";
import { UsageError } from "../../util/errors.ts";
import { Progress } from "../../util/progress.ts";
import { number } from "../model_options.ts";

interface LeakFlags {
  test: string[];
  train: string[];
  report?: string;
  bleu: number;
  contain: number;
}

export function registerLeak(data: Command): void {
  data
    .command("leak")
    .description("look for evaluation questions in training data; exit code 1 when there are some")
    .requiredOption(
      "--test <files...>",
      "question files: Koala's 180, self-instruct's 252, Vicuna's 80, or own ones",
    )
    .requiredOption("--train <files...>", "raw files of any source, or curated ones")
    .option("--bleu <score>", "a sentence BLEU above this is a leak", number(1, 100), leakDefaults.threshold)
    .option(
      "--contain <share>",
      "a share of the question's 8-grams above this is a leak",
      number(0, 1),
      leakDefaults.containmentShare,
    )
    .option(
      "--report <file>",
      "write the closest text of every question: as a page where the name ends in .html, else as JSON",
    )
    .action(run);
}

async function run({ test, train, report, bleu, contain }: LeakFlags): Promise<void> {
  const questions: Question[] = [];
  for (const path of test) questions.push(...(await readQuestions(path, { view: "clean" })));
  const settings = leakageOptions.parse({
    rule: "leakage",
    questions: test.map((path) => ({ path })),
    threshold: bleu,
    containment: contain,
    drop: "none",
  });
  const filter = new Leakage(questions, settings);
  let turns = 0;
  const unread: Unread = new Map();
  for await (const dialogue of trainingDialogues(train, unread)) {
    turns += userTurns(dialogue).length;
    filter.apply(dialogue);
  }
  const found = filter.report();
  if (report !== undefined)
    await writeWhole(
      report,
      report.endsWith(".html") ? leakPage(found) : `${JSON.stringify(found, null, 2)}\n`,
    );
  console.log(leakText(found, turns));
  for (const [words, count] of unread) process.stderr.write(`koala: not compared: ${count} x ${words}\n`);
  if (found.leaked > 0)
    throw new UsageError(
      `${found.leaked} of ${found.questions} questions stand in the training data; leave those ${found.dialogues} dialogues out with the filter leakage, or the questions.`,
    );
}

/** Records that no question was looked for in: file and reason, counted. */
type Unread = Map<string, number>;

async function* trainingDialogues(paths: readonly string[], unread: Unread): AsyncGenerator<Dialogue> {
  const labels = fileLabels(paths);
  const progress = new Progress("bytes");
  for (const [i, path] of paths.entries()) {
    const { size } = Bun.file(path);
    if (await isCurated(path)) {
      yield* readLines<Dialogue>(path);
      continue;
    }
    const onBytes = (bytes: number): void => progress.update(`reading ${labels[i]}`, bytes, size);
    for await (const read of readDialogues(path, { file: labels[i]!, onBytes }))
      if (read.verdict === "dropped") {
        const words = `${labels[i]}: ${read.drop.reason}`;
        unread.set(words, (unread.get(words) ?? 0) + 1);
      } else yield read.dialogue;
  }
}

/** Whether the first line is what curation writes. */
async function isCurated(path: string): Promise<boolean> {
  if (!(await Bun.file(path).exists())) throw new UsageError(`There is no file ${path}.`);
  if (!basename(path).endsWith(".jsonl")) return false;
  for await (const line of textLines(path)) return line.startsWith('{"kind":"dialogue"');
  return false;
}

/** The questions that leak, each with what it was met in, the closest first. */
function leakText({ rows, leaked, questions }: LeakReport, turns: number): string {
  const lines = rows
    .filter(({ leaks }) => leaks)
    .map(({ question, text, closest }) => {
      const hits = Object.entries(closest)
        .filter(([, hit]) => hit.leaks)
        .map(
          ([rule, { score, dialogue, turn }]) => `${rule} ${score.toFixed(2)} in ${dialogue}, turn ${turn}`,
        );
      return `${question}: ${text.replace(/\s+/g, " ").slice(0, 100)}\n  ${hits.join("\n  ")}`;
    });
  return [
    ...lines,
    `${leaked} of ${questions} questions leak; ${turns} questions of users were compared.`,
  ].join("\n");
}
