/** The last stage of curation: the filtered dialogues, mixed as the recipe says, as training and evaluation files with their tables.
 *  Always: memory holds the ids and places of dialogues and one dialogue at a time; what the mixture leaves out is written as
 *  dropped. */
import { open } from "node:fs/promises";
import { join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { compositionPage, compositionText } from "./composition_page.ts";
import { CompositionCounter, measure, type Composition } from "./composition.ts";
import type { CurationOptions, CurationReport, ReadReport } from "./curation.ts";
import type { CurationRecipe } from "./curation_recipe.ts";
import { userTurns, type Dialogue, type Drop } from "./dialogue.ts";
import type { FilterReport } from "./filters/report.ts";
import { excerptOf } from "./filters/texts.ts";
import { leakPage } from "./leak/leak_page.ts";
import type { LeakReport } from "./leak/leak_report.ts";
import { LineWriter, textLines } from "./json_lines.ts";
import { koalaRecords } from "./koala_records.ts";
import { mix, questionGroup, type Mixture, type MixtureItem } from "./mixture.ts";
import type { DataSource } from "./prepare.ts";
import { RecordFault } from "./record.ts";
import { writeWhole } from "./stages.ts";
import { needsRecords } from "./warts.ts";

/** Returns the files written. */
export async function mixStage(options: CurationOptions, source: DataSource): Promise<string[]> {
  const { recipe, out, onProgress } = options;
  const input = join(out, "filtered/dialogues.jsonl");
  const { items, places } = await scan(input, onProgress);
  if (items.length === 0)
    throw new UsageError(
      `Nothing is left of the raw files of ${recipe.name} after the filters; koala data why ${out} WORD says what became of a record.`,
    );
  const { sources, mixture, seed, warts } = recipe;
  const mixed = mix(items, {
    sources: sources.map((one) => ({ ...one, evalShare: one.eval_share ?? mixture.eval_share })),
    seed,
    size: mixture.size,
    repeatBeforeSplit: warts.repeat_before_split,
  });
  const written = await writeMixture(options, source, { input, places, mixed });
  const filters = (await Bun.file(join(out, "filtered/report.json")).json()) as FilterReport;
  const report: CurationReport = {
    recipe: recipe.name,
    seed,
    read: (await Bun.file(join(out, "read/report.json")).json()) as ReadReport[],
    filters,
    mixture: { train: mixed.train.length, eval: mixed.eval.length, left: mixed.left.length },
  };
  const texts = {
    "report.json": `${JSON.stringify(report, null, 2)}\n`,
    "composition.json": `${JSON.stringify(written.composition, null, 2)}\n`,
    "composition.txt": `${compositionText(written.composition)}\n`,
    "composition.html": compositionPage(written.composition),
    ...leakPages(filters),
  };
  for (const [name, text] of Object.entries(texts)) await writeWhole(join(out, name), text);
  return [...written.files, ...Object.keys(texts)];
}

/** A page for each leakage filter. */
function leakPages({ rules }: FilterReport): { [name: string]: string } {
  const reports = rules.filter(({ rule }) => rule === "leakage").map(({ report }) => report as LeakReport);
  return Object.fromEntries(
    reports.map((report, i) => [`leakage${i === 0 ? "" : `-${i + 1}`}.html`, leakPage(report)]),
  );
}

/** Where a line lies in the file of dialogues. */
interface Place {
  offset: number;
  bytes: number;
}

async function scan(
  path: string,
  onProgress: CurationOptions["onProgress"],
): Promise<{ items: MixtureItem[]; places: Place[] }> {
  const items: MixtureItem[] = [];
  const places: Place[] = [];
  const { size } = Bun.file(path);
  let offset = 0;
  for await (const line of textLines(path)) {
    const dialogue = JSON.parse(line) as Dialogue;
    const bytes = Buffer.byteLength(line);
    items.push({
      id: dialogue.id,
      source: dialogue.source,
      group: questionGroup(userTurns(dialogue)[0] ?? ""),
    });
    places.push({ offset, bytes });
    offset += bytes + 1;
    onProgress?.("planning the mixture", offset, size);
  }
  return { items, places };
}

/** The lines in the mixture's order, each read from where it lies: memory holds one at a time. */
async function writeMixture(
  { recipe, out, onProgress }: CurationOptions,
  { tokenizing }: DataSource,
  { input, places, mixed }: { input: string; places: readonly Place[]; mixed: Mixture },
): Promise<{ files: string[]; composition: Composition }> {
  const counter = new CompositionCounter(
    recipe.name,
    recipe.sources.map(({ name }) => name),
  );
  const warts = needsRecords(recipe.warts) || recipe.compat === "koala" ? recipe.warts : null;
  const files = ["curated/train.jsonl", "curated/eval.jsonl", "dropped/mixture-dropped.jsonl"];
  const [train, evaluation, drops] = (await Promise.all(
    files.map((file) => LineWriter.open(join(out, file))),
  )) as [LineWriter, LineWriter, LineWriter];
  const handle = await open(input);
  const dialogueAt = async (item: number): Promise<Dialogue> => {
    const { offset, bytes } = places[item]!;
    const buffer = Buffer.alloc(bytes);
    await handle.read(buffer, 0, bytes, offset);
    return JSON.parse(buffer.toString()) as Dialogue;
  };
  const write = async (writer: LineWriter, dialogue: Dialogue): Promise<void> => {
    if (warts === null) return writer.write(dialogue);
    for (const { record } of recordsOf(dialogue, warts)) await writer.write(record);
  };
  try {
    const copies = new Map<number, number>();
    for (const item of mixed.train) copies.set(item, (copies.get(item) ?? 0) + 1);
    const counted = new Set<number>();
    for (const [i, item] of mixed.train.entries()) {
      const dialogue = await dialogueAt(item);
      await write(train, dialogue);
      if (!counted.has(item))
        counter.train(dialogue, copies.get(item)!, measure(dialogue, tokenizing, warts));
      counted.add(item);
      onProgress?.("writing the mixture", i + 1, mixed.train.length);
    }
    for (const item of mixed.eval) {
      const dialogue = await dialogueAt(item);
      await write(evaluation, dialogue);
      counter.eval(dialogue);
    }
    for (const { item, reason } of mixed.left) {
      const dialogue = await dialogueAt(item);
      const drop: Drop = {
        id: dialogue.id,
        rule: "mixture",
        reason,
        detail: null,
        excerpt: excerptOf(dialogue),
      };
      await drops.write(drop);
    }
  } finally {
    await handle.close();
    for (const writer of [train, evaluation, drops]) await writer.close();
  }
  return { files, composition: counter.finish() };
}

/** A dialogue that the original's records cannot say is refused by the table, and not written. */
function recordsOf(dialogue: Dialogue, warts: CurationRecipe["warts"]): { record: object }[] {
  try {
    return koalaRecords(dialogue, warts);
  } catch (error) {
    if (error instanceof RecordFault) return [];
    throw error;
  }
}
