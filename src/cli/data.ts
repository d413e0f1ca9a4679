/** `koala data`: looks at training data before a model does. `preview` paints the trained tokens, `check` prints the report
 *  and fails on refused lints, `prepare` writes the data set that a recipe names, `tiny` writes the corpus and tokenizer of koala-tiny. */
import { type Command, Option } from "commander";
import { documentsOf } from "../data/example.ts";
import { formatNames } from "../data/formats/format.ts";
import { paintDocument } from "../data/preview.ts";
import { checkDataset, openSource, prepareDataset, type DataOptions } from "../data/prepare.ts";
import { readRecords } from "../data/reader.ts";
import { RecordFault } from "../data/record.ts";
import { refusalText, reportText } from "../data/report.ts";
import { writeTinyCorpus } from "../data/tiny/write.ts";
import { tokenizeDefaults } from "../data/tokenize.ts";
import { UsageError } from "../util/errors.ts";
import { Progress } from "../util/progress.ts";
import { registerComposition } from "./data/composition.ts";
import { registerCurate } from "./data/curate.ts";
import { registerLeak } from "./data/leak.ts";
import { registerSources } from "./data/sources.ts";
import { registerWarts } from "./data/warts.ts";
import { registerWhy } from "./data/why.ts";
import { integer, number, resolveModel } from "./model_options.ts";

interface DataFlags {
  model: string;
  format: string;
  template?: string;
  fields?: string;
  method: "sft" | "dpo" | "kto";
  sequenceLength: number;
  truncation: "refuse" | "drop" | "cut";
  preference: "condition" | "chosen";
}

export function register(program: Command): void {
  const data = program
    .command("data")
    .description("curate raw dialogues, and look at training data before a model does");
  addDataFlags(
    data.command("preview <file>").description("paint the tokens of records, trained ones coloured"),
  )
    .option("--count <n>", "documents to show", integer(1, 100_000), 3)
    .action(preview);
  addDataFlags(data.command("check <files...>").description("report on data; exit code 1 when it is refused"))
    .option("--allow <lints...>", "lints that shall not refuse the data")
    .option("--json", "print the report as JSON")
    .action(check);
  addDataFlags(
    data
      .command("prepare <files...>")
      .description("tokenise data once, for recipes that name it as dataset or validation"),
  )
    .requiredOption("--out <folder>", "where data sets are kept; each gets a folder of its own")
    .option("--allow <lints...>", "lints that shall not refuse the data")
    .action(prepare);
  data
    .command("tiny <folder>")
    .description("write the corpus and tokenizer that koala-tiny is trained from")
    .option("--seed <n>", "seed of the dialogues", integer(0, 2 ** 31 - 1), 1)
    .option("--dialogues <n>", "dialogues to write", integer(1, 10_000_000), 24_000)
    .option(
      "--negative-share <share>",
      "share of them with bad answers behind the negative marker",
      number(0, 1),
      0.25,
    )
    .option("--vocabulary <n>", "largest number of pieces of the tokenizer", integer(260, 65_536), 2048)
    .action(tiny);
  registerSources(data);
  registerWarts(data);
  registerCurate(data);
  registerWhy(data);
  registerComposition(data);
  registerLeak(data);
}

function addDataFlags(command: Command): Command {
  const d = tokenizeDefaults;
  const choice = (flag: string, description: string, names: readonly string[], value: string): Option =>
    new Option(flag, description).choices(names).default(value);
  return command
    .requiredOption("--model <name>", "folder or hub name of the model whose tokenizer and template are used")
    .addOption(choice("--format <name>", "format of the records", ["auto", ...formatNames], "auto"))
    .option("--template <name>", "koala, koala-negative, chatml, or a Jinja file (default: the model's own)")
    .option("--fields <spec>", "EasyLM fields for records that bring none")
    .addOption(choice("--method <name>", "what the data is for", ["sft", "dpo", "kto"], d.method))
    .option("--sequence-length <n>", "most tokens of a document", integer(8, 2 ** 22), d.sequenceLength)
    .addOption(
      choice("--truncation <way>", "what happens to longer ones", ["refuse", "drop", "cut"], d.truncation),
    )
    .addOption(
      choice(
        "--preference <way>",
        "pairs under sft: both sides with markers, or the chosen one",
        ["condition", "chosen"],
        d.preference,
      ),
    );
}

async function check(
  files: string[],
  flags: DataFlags & { allow?: string[]; json?: boolean },
): Promise<void> {
  const progress = new Progress("bytes");
  const options = await dataOptions(files, flags);
  const report = await checkDataset({ ...options, allow: flags.allow ?? [] }, (stage, done, total) =>
    progress.update(stage, done, total),
  );
  console.log(flags.json ? JSON.stringify(report, null, 2) : reportText(report));
  if (report.refused) throw new UsageError(refusalText(report));
}

async function prepare(files: string[], flags: DataFlags & { allow?: string[]; out: string }): Promise<void> {
  const progress = new Progress("bytes");
  const options = await dataOptions(files, flags);
  const { directory, report, written } = await prepareDataset(
    { ...options, allow: flags.allow ?? [], directory: flags.out },
    (stage, done, total) => progress.update(stage, done, total),
  );
  console.log(`${reportText(report)}\n\n${directory}${written ? "" : " (it was there already)"}`);
}

async function preview(file: string, flags: DataFlags & { count: number }): Promise<void> {
  const options = await dataOptions([file], flags);
  const { tokenizer, tokenizing } = await openSource(options);
  const colour = process.stdout.isTTY === true && !process.env.NO_COLOR;
  let shown = 0;
  for await (const read of readRecords(file, options)) {
    const place = `${read.file} line ${read.line}`;
    if (shown >= flags.count) break;
    shown++;
    if (read.verdict === "dropped") {
      console.log(`${place}: dropped, ${read.reason}`);
      continue;
    }
    const repaired = read.verdict === "repaired" ? ` (repaired: ${read.reason})` : "";
    try {
      const { examples, notes } = tokenizing.tokenize(read.record);
      for (const segments of examples.flatMap(documentsOf))
        console.log(`${place}${repaired}\n${paintDocument(segments, tokenizer, colour)}\n`);
      if (notes.length > 0) console.log(`${place}: ${notes.join(", ")}`);
    } catch (error) {
      if (!(error instanceof RecordFault)) throw error;
      console.log(`${place}: dropped, ${error.message}`);
    }
  }
}

async function dataOptions(files: string[], flags: DataFlags): Promise<DataOptions> {
  const { format, template, fields, method, sequenceLength, truncation, preference } = flags;
  const named = fields === undefined ? {} : { fields };
  const model = await resolveModel(flags.model);
  return { files, model, format, template, method, sequenceLength, truncation, preference, ...named };
}

async function tiny(
  folder: string,
  flags: { seed: number; dialogues: number; negativeShare: number; vocabulary: number },
): Promise<void> {
  const made = await writeTinyCorpus(folder, flags.seed, {
    dialogueCount: flags.dialogues,
    negativeShare: flags.negativeShare,
    vocabularySize: flags.vocabulary,
  });
  console.log(
    `${folder}: ${made.dialogues} dialogues (${made.negative} with bad answers), ${made.heldOutQuestions} held-out questions, a tokenizer of ${made.vocabularySize} pieces`,
  );
}
