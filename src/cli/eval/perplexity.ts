/** `koala eval perplexity`: how well a model predicts texts. */
import { basename } from "node:path";
import type { Command } from "commander";
import { rawValues } from "../../data/raw_values.ts";
import { perplexityBySource, type Document, type Perplexity } from "../../eval/tasks/perplexity.ts";
import { UsageError } from "../../util/errors.ts";
import { bytesText, Progress } from "../../util/progress.ts";
import { integer } from "../model_options.ts";
import { addScoredModelFlags, openScoredModel, type ScoredModelFlags } from "./scored_model.ts";

interface PerplexityFlags extends ScoredModelFlags {
  window?: number;
  stride?: number;
}

export function registerPerplexity(verb: Command): void {
  const command = verb
    .command("perplexity <model> <files...>")
    .description(
      "perplexity of texts by source, weighted by tokens: .txt is one document, records have text and may have source",
    )
    .option(
      "--window <n>",
      "most tokens that the model sees at once (default: its context)",
      integer(2, 2 ** 24),
    )
    .option(
      "--stride <n>",
      "tokens that each further window scores (default: all but one, so windows do not overlap)",
      integer(1, 2 ** 24),
    );
  addScoredModelFlags(command).action(run);
}

async function run(name: string, files: string[], flags: PerplexityFlags): Promise<void> {
  const documents = (await Promise.all(files.map(readDocuments))).flat();
  const model = await openScoredModel(name, flags);
  const { window, stride } = flags;
  const windows = { ...(window ? { window } : {}), ...(stride ? { stride } : {}) };
  if (model.tokens === null && (window || stride))
    process.stderr.write("koala: This endpoint has no tokenizer, so --window and --stride have no effect.\n");
  try {
    const progress = new Progress("items");
    const lines = await perplexityBySource(documents, model.likelihood(windows), (done) =>
      progress.update("scoring documents", done, documents.length),
    );
    if (flags.json) console.log(JSON.stringify({ model: model.modelId, sources: lines }, null, 2));
    else console.log(table(lines));
  } finally {
    await model.close();
  }
}

/** Longer ones do not go through a request. */
const documentBytesMax = 4 * 2 ** 20;

async function readDocuments(path: string): Promise<Document[]> {
  const name = basename(path);
  if (/\.(txt|md)$/i.test(path)) return [checked({ text: await textOf(path), source: name }, name)];
  const documents: Document[] = [];
  for await (const batch of rawValues(path))
    for (const { line, value, reason } of batch) {
      if (value === null) throw new UsageError(`${name} line ${line}: ${reason}.`);
      const { text, source } = value;
      if (typeof text !== "string" || text === "")
        throw new UsageError(
          `${name} line ${line} has no text; a document is {"text": "...", "source": "..."}.`,
        );
      const from = typeof source === "string" ? source : name;
      documents.push(checked({ text, source: from }, `${name} line ${line}`));
    }
  if (documents.length > 0) return documents;
  throw new UsageError(`${name} is empty: it holds no documents.`);
}

async function textOf(path: string): Promise<string> {
  const file = Bun.file(path);
  if (!(await file.exists())) throw new UsageError(`There is no file ${path}.`);
  if (file.size > documentBytesMax) throw tooLong(basename(path), file.size);
  return file.text();
}

function checked(document: Document, place: string): Document {
  const bytes = Buffer.byteLength(document.text);
  if (bytes > documentBytesMax) throw tooLong(place, bytes);
  if (bytes === 0) throw new UsageError(`${place} is empty: it holds no text.`);
  return document;
}

const tooLong = (place: string, bytes: number): UsageError =>
  new UsageError(
    `${place} holds ${bytesText(bytes)} of text, and a document may have ${bytesText(documentBytesMax)}; cut it into several.`,
  );

function table(lines: readonly Perplexity[]): string {
  const width = Math.max(6, ...lines.map(({ source }) => source.length));
  const head = `${"source".padEnd(width)}  documents      tokens  perplexity  per word  per byte  bits/byte`;
  const rows = lines.map((line) =>
    [
      line.source.padEnd(width),
      String(line.documents).padStart(9),
      String(line.tokens).padStart(10),
      line.perplexity.toPrecision(6).padStart(10),
      line.wordPerplexity.toPrecision(5).padStart(8),
      line.bytePerplexity.toPrecision(5).padStart(8),
      line.bitsPerByte.toFixed(4).padStart(9),
    ].join("  "),
  );
  return [head, ...rows].join("\n");
}
