/** Files of records to a data set on disk, before any rank starts: read, tokenised, checked, written.
 *  Always: the directory's name is a hash of everything that the tokens depend on, so equal inputs are tokenised once;
 *  a refused data set leaves nothing behind. */
import { mkdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Segment } from "../text/segments.ts";
import { loadTemplate, namedTemplate, type ChatTemplate } from "../text/template.ts";
import type { JsonObject } from "../text/tokenizer_file.ts";
import { loadTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { UsageError } from "../util/errors.ts";
import { documentsOf, isLabelled, type Example } from "./example.ts";
import { hashFile, hashJson, hashTemplate, hashTokenizer } from "../text/fingerprint.ts";
import type { FormatOptions } from "./formats/format.ts";
import { documentLints, lintNames, recordLints } from "./lints.ts";
import { Mismatcher, type LabelledPair } from "./mismatch.ts";
import { readRecords, type ReadRecord } from "./reader.ts";
import { RecordFault } from "./record.ts";
import { refusalText, ReportBuilder, type DatasetReport } from "./report.ts";
import { datasetInfo, datasetVersion, DatasetWriter, verifyDataset } from "./shard.ts";
import { StreamPacker } from "./stream_pack.ts";
import { RecordTokenizer, tokenizeDefaults, type TokenizeOptions } from "./tokenize.ts";

export interface DataOptions extends FormatOptions, Partial<TokenizeOptions> {
  files: readonly string[];
  /** Folder with the tokenizer, and the chat template unless `template` names another. */
  model: string;
  /** koala, koala-negative, chatml, or the path of a Jinja file; "auto" (default) is the model's own. */
  template?: string | undefined;
  /** A format's name, or "auto" (default): told from the first records of each file. */
  format?: string;
  /** Lints that shall not refuse the data. */
  allow?: readonly string[];
  /** Share of trained tokens below which data is refused (default 0.005). */
  trainedShareMin?: number;
  /** documents (default): whole, packed a step at a time. stream: cut into rows of `sequenceLength` now, as EasyLM does. */
  packing?: "documents" | "stream";
}

export interface PrepareOptions extends DataOptions {
  /** Where data sets are kept; each gets a folder of its own. */
  directory: string;
}

export interface PreparedDataset {
  directory: string;
  report: DatasetReport;
  /** False when the same inputs had been prepared before. */
  written: boolean;
}

export type DataProgress = (stage: "hashing" | "tokenising", bytesDone: number, bytesTotal: number) => void;

/** Throws a UsageError when the data is refused; `refusalText` of its report is the message. */
export async function prepareDataset(
  options: PrepareOptions,
  onProgress: DataProgress = () => {},
): Promise<PreparedDataset> {
  const source = await openSource(options);
  const inputs = await inputsOf(options, source, onProgress);
  const hash = hashJson(inputs);
  const directory = join(options.directory, `${slug(options.files[0]!)}-${hash.slice(0, 16)}`);
  const known = datasetInfo(directory);
  if (known) {
    await verifyDataset(directory);
    return { directory, report: known.report as unknown as DatasetReport, written: false };
  }
  await mkdir(options.directory, { recursive: true });
  const writer = await DatasetWriter.create(directory);
  const add = (segments: Segment[]): void => writer.add(segments);
  const stream = options.packing === "stream" ? streamPacker(source, options, add) : null;
  try {
    const report = await scan(options, source, {
      onProgress,
      onDocument: stream ? (segments) => stream.add(segments) : add,
      onLabelled: ({ answer, mismatched, good }) => {
        writer.addLabel(good);
        writer.add(answer);
        writer.add(mismatched);
      },
    });
    if (report.refused) throw new UsageError(refusalText(report));
    if (stream?.rows === 0)
      throw new UsageError(
        `The data has ${report.tokens} tokens and fills no row of ${rowLength(options)}; lower sequence_length, or leave packing = "stream" out.`,
      );
    const pairs = source.tokenizing.options.method !== "sft";
    await writer.finish({ hash, pairs, inputs, report: report as unknown as JsonObject });
    return { directory, report, written: true };
  } catch (error) {
    await writer.abandon();
    const full = error instanceof Error && "code" in error && error.code === "ENOSPC";
    throw full
      ? new UsageError(`The disk of ${options.directory} is full; free some space or name another folder.`)
      : error;
  }
}

/** The report alone, whatever it says. */
export async function checkDataset(
  options: DataOptions,
  onProgress: DataProgress = () => {},
): Promise<DatasetReport> {
  return scan(options, await openSource(options), { onProgress });
}

/** Documents that are cut anywhere cannot be pairs. */
function streamPacker(
  { tokenizer, tokenizing }: DataSource,
  options: PrepareOptions,
  onRow: (row: Segment[]) => void,
): StreamPacker {
  const { method } = tokenizing.options;
  if (method !== "sft") throw new UsageError(`packing = "stream" is for the method sft, not for ${method}.`);
  return new StreamPacker(rowLength(options), tokenizer.bosId, onRow);
}

const rowLength = ({ sequenceLength = tokenizeDefaults.sequenceLength }: PrepareOptions): number =>
  sequenceLength;

export interface DataSource {
  tokenizer: Tokenizer;
  template: ChatTemplate | null;
  tokenizing: RecordTokenizer;
}

/** Tokenizer and template of the model, and what they make of records. */
export async function openSource(options: DataOptions): Promise<DataSource> {
  if (options.files.length === 0) throw new UsageError("No data file is named. Name at least one.");
  const unknown = options.allow?.find((name) => !(lintNames as readonly string[]).includes(name));
  if (unknown !== undefined)
    throw new UsageError(`There is no lint ${unknown} to allow; known are ${lintNames.join(", ")}.`);
  const tokenizer = await loadTokenizer(options.model);
  const named = options.template !== undefined && options.template !== "auto";
  const template = named
    ? await namedTemplate(options.template!, tokenizer)
    : await loadTemplate(options.model, tokenizer);
  return {
    tokenizer,
    template,
    tokenizing: new RecordTokenizer(tokenizer, template, tokenizeOptions(options)),
  };
}

function tokenizeOptions(options: DataOptions): TokenizeOptions {
  const names = Object.keys(tokenizeDefaults) as (keyof TokenizeOptions)[];
  const given = names.flatMap((name) => (options[name] === undefined ? [] : [[name, options[name]]]));
  const all: TokenizeOptions = { ...tokenizeDefaults, ...Object.fromEntries(given) };
  // A stream is cut anywhere: no document is too long for it.
  return options.packing === "stream" ? { ...all, sequenceLength: 2 ** 30 } : all;
}

async function inputsOf(
  options: PrepareOptions,
  { template, tokenizing }: DataSource,
  onProgress: DataProgress,
): Promise<JsonObject> {
  const total = await sizeOf(options.files);
  const files: JsonObject[] = [];
  let done = 0;
  for (const path of options.files) {
    files.push({ name: basename(path), sha256: await hashFile(path) });
    onProgress("hashing", (done += (await stat(path)).size), total);
  }
  const { format = "auto", fields = null, prependText = null, subfieldSeparator = null } = options;
  const { allow = [], trainedShareMin = null } = options;
  return {
    version: datasetVersion,
    files,
    tokenizer: await hashTokenizer(options.model),
    template: hashTemplate(template),
    options: {
      ...tokenizing.options,
      format,
      fields,
      prependText,
      subfieldSeparator,
      allow: [...allow].sort(),
      trainedShareMin,
      ...(options.packing === "stream" ? { packing: "stream", rowLength: rowLength(options) } : {}),
    } as JsonObject,
  };
}

interface Sink {
  onProgress: DataProgress;
  onDocument?: (segments: Segment[]) => void;
  /** Instead of it, for answers with labels. */
  onLabelled?: (pair: LabelledPair) => void;
}

async function scan(options: DataOptions, source: DataSource, sink: Sink): Promise<DatasetReport> {
  const report = new ReportBuilder(new Set(options.allow), options.trainedShareMin ?? 0.005);
  const total = await sizeOf(options.files);
  const seen = new Set<number>();
  const mismatcher = new Mismatcher(source.tokenizing.options.sequenceLength);
  let before = 0;
  for (const path of options.files) {
    const onBytes = (bytes: number): void => sink.onProgress("tokenising", before + bytes, total);
    for await (const read of readRecords(path, { ...options, onBytes })) {
      for (const [segments, example] of checkedDocuments(read, source, report)) {
        const place = `${read.file} line ${read.line}`;
        const key = hashOf(segments);
        if (seen.has(key)) report.finding("duplicate", place);
        seen.add(key);
        if (isLabelled(example)) mismatcher.add(example).forEach((pair) => sink.onLabelled?.(pair));
        else sink.onDocument?.(segments);
      }
    }
    before += (await stat(path)).size;
  }
  mismatcher.finish().forEach((pair) => sink.onLabelled?.(pair));
  return report.finish();
}

/** 53 bits: two of a million documents share them by chance once in 20,000 data sets. */
const hashOf = (segments: readonly Segment[]): number =>
  Number(BigInt.asUintN(53, BigInt(Bun.hash(Int32Array.from(segments.flatMap(({ ids }) => ids))))));

/** The documents of one record, each with its example; verdict, lints and figures go to the report. */
function checkedDocuments(
  read: ReadRecord,
  source: DataSource,
  report: ReportBuilder,
): [Segment[], Example][] {
  const place = `${read.file} line ${read.line}`;
  if (read.verdict === "dropped") {
    report.verdict("dropped", place, read.reason);
    return [];
  }
  const { tokenizer, template, tokenizing } = source;
  let tokenized;
  try {
    tokenized = tokenizing.tokenize(read.record);
  } catch (error) {
    if (!(error instanceof RecordFault)) throw error;
    report.verdict("dropped", place, error.message);
    return [];
  }
  report.verdict(read.verdict, place, read.verdict === "repaired" ? read.reason : "");
  for (const lint of recordLints(read.record, tokenizer)) report.finding(lint, place);
  for (const note of tokenized.notes) report.finding(lintOfNote[note], place);
  const documents = tokenized.examples.flatMap((example) =>
    documentsOf(example).map((segments): [Segment[], Example] => [segments, example]),
  );
  for (const [segments] of documents) {
    for (const lint of documentLints(segments, tokenizer, template)) report.finding(lint, place);
    const count = (trained: boolean): number =>
      segments.reduce((sum, { ids, loss }) => sum + (!trained || loss > 0 ? ids.length : 0), 0);
    report.document(count(false), count(true));
  }
  return documents;
}

const lintOfNote = {
  "last turn only": "last-turn-only",
  "too long": "too-long",
  "dropped as too long": "cut-or-dropped",
  cut: "cut-or-dropped",
} as const;

async function sizeOf(files: readonly string[]): Promise<number> {
  let total = 0;
  for (const path of files) {
    const found = await stat(path).catch(() => null);
    if (!found) throw new UsageError(`There is no file ${path}.`);
    if (!found.isFile()) throw new UsageError(`${path} is a folder; name the data files in it.`);
    total += found.size;
  }
  return total;
}

/** "My data.jsonl.gz" -> "my-data" */
const slug = (path: string): string =>
  basename(path)
    .replace(/\..*$/, "")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 40) || "data";
