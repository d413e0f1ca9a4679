/** Reads raw files of a source to dialogues, each raw record with its verdict.
 *  Always: streamed; every raw record comes out, as dialogues or as a drop with line and reason; what stands before a truncation
 *  is kept and the truncation itself is a drop; ids are unique within a file and equal on every run. */
import { basename } from "node:path";
import type { JsonObject } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";
import type { Dialogue, Drop } from "../dialogue.ts";
import { BrokenFile, rawValues, type RawValue } from "../raw_values.ts";
import { contentText, RecordFault } from "../record.ts";
import { checkSourceOptions, detectSource, sourceNamed } from "./registry.ts";
import type { Source, SourceItem, SourceOptions } from "./source.ts";

export interface ReadDialogueOptions {
  /** A source's name, or "auto" (default): told from the first records. */
  source?: string;
  /** The source's settings. */
  options?: SourceOptions;
  /** What dialogues say they come from (default: the source's name). */
  sourceName?: string;
  /** What stands for the file in ids (default: its base name); `fileLabels` tells equal base names apart. */
  file?: string;
  /** Instead of what the source says about all its data. */
  licence?: string;
  /** Called with the bytes of the file itself, before decompression. */
  onBytes?: (bytesRead: number) => void;
  /** Longer raw records are dropped (default 64 MiB). */
  recordBytesMax?: number;
}

export type ReadDialogue =
  | { verdict: "ok"; dialogue: Dialogue }
  | { verdict: "repaired"; dialogue: Dialogue; reason: string }
  | { verdict: "dropped"; drop: Drop };

/** Throws a UsageError where there is no such file, nothing in it, or nothing that any source knows. */
export async function* readDialogues(
  path: string,
  options: ReadDialogueOptions = {},
): AsyncGenerator<ReadDialogue> {
  const { source: named = "auto" } = options;
  let parser = named === "auto" ? null : new Parser(sourceNamed(named), path, options);
  let waiting: RawValue[] = [];
  let count = 0;
  const begin = (): Parser => new Parser(detected(waiting, basename(path)), path, options);
  try {
    for await (const batch of rawValues(path, { ...options, lists: true })) {
      count += batch.length;
      waiting = waiting.length === 0 ? batch : waiting.concat(batch);
      if (!parser && waiting.length < recordsToDetect) continue;
      parser ??= begin();
      for (const raw of waiting) yield* parser.parse(raw);
      waiting = [];
    }
  } catch (error) {
    if (!(error instanceof BrokenFile)) throw error;
    const { line, reason } = error;
    waiting = [...waiting, { line, value: null, reason, section: null, excerpt: "" }];
    count++;
  }
  if (count === 0) throw new UsageError(`${basename(path)} is empty: it holds no records.`);
  parser ??= begin();
  for (const raw of waiting) yield* parser.parse(raw);
}

const recordsToDetect = 20;

/** The source that `readDialogues` would take for "auto". */
export async function detectFile(path: string): Promise<Source> {
  let first: RawValue[] = [];
  try {
    for await (const batch of rawValues(path, { lists: true })) {
      first = first.concat(batch);
      if (first.length >= recordsToDetect) break;
    }
  } catch (error) {
    if (!(error instanceof BrokenFile) || first.length === 0) throw error;
  }
  if (first.length === 0) throw new UsageError(`${basename(path)} is empty: it holds no records.`);
  return detected(first, basename(path));
}

/** What tells these files apart in ids: the base name, with as many folders before it as needed. */
export function fileLabels(paths: readonly string[]): string[] {
  const parts = paths.map((path) => path.split(/[\\/]+/).filter((part) => part !== ""));
  const label = (i: number, length: number): string => parts[i]!.slice(-length).join("/");
  return parts.map((own, i) => {
    let length = 1;
    const clashes = (): boolean => parts.some((_, j) => j !== i && label(j, length) === label(i, length));
    while (length < own.length && clashes()) length++;
    return label(i, length);
  });
}

function detected(waiting: readonly RawValue[], file: string): Source {
  const values = waiting.slice(0, recordsToDetect).flatMap(({ value }) => (value ? [value] : []));
  const [first] = waiting;
  if (values.length === 0 && first) {
    const hint = /\.json(\.gz|\.zst)?$/i.test(file)
      ? " A .json file holds one array of records, or one record a line."
      : "";
    throw new UsageError(
      `${file} line ${first.line}: ${first.reason}; none of the first ${Math.min(waiting.length, recordsToDetect)} records can be read.${hint}`,
    );
  }
  return detectSource(values, file);
}

class Parser {
  private readonly file: string;
  private readonly label: string;
  private readonly sourceName: string;
  private line = 0;
  /** How many ids the line has given. */
  private given = 0;

  constructor(
    private readonly source: Source,
    path: string,
    private readonly options: ReadDialogueOptions,
  ) {
    this.file = basename(path);
    this.label = options.file ?? this.file;
    this.sourceName = options.sourceName ?? source.name;
    checkSourceOptions(source, options.options ?? {});
  }

  parse(raw: RawValue): ReadDialogue[] {
    if (raw.line !== this.line) [this.line, this.given] = [raw.line, 0];
    if (raw.value === null) return [this.drop(raw.reason, raw.excerpt)];
    let items: SourceItem[];
    try {
      items = this.source.parse(raw.value, this.options.options ?? {}, this.file);
    } catch (error) {
      if (error instanceof RecordFault) return [this.drop(error.message, excerptOf(raw.value))];
      throw error;
    }
    return items.map((item) => this.read(item, items.length > 1, raw.section));
  }

  private read(item: SourceItem, several: boolean, section: string | null): ReadDialogue {
    const { source, sourceName, options } = this;
    const dialogue: Dialogue = {
      kind: "dialogue",
      id: this.nextId(several),
      source: sourceName,
      file: this.file,
      line: this.line,
      licence: options.licence ?? (item.licence === undefined ? source.licence : item.licence),
      record: item.record,
      marker: item.marker ?? "positive",
      tags: { ...(section === null ? {} : { split: section }), ...item.tags },
    };
    if (!item.repairs || item.repairs.length === 0) return { verdict: "ok", dialogue };
    return { verdict: "repaired", dialogue, reason: item.repairs.join("; ") };
  }

  private drop(reason: string, excerpt: string): ReadDialogue {
    return {
      verdict: "dropped",
      drop: { id: this.nextId(false), rule: "parse", reason, detail: null, excerpt },
    };
  }

  /** Records of an array may share a line, so the number runs on through all of it. */
  private nextId(several: boolean): string {
    this.given++;
    const suffix = several || this.given > 1 ? `#${this.given}` : "";
    return `${this.sourceName}/${this.label}:${this.line}${suffix}`;
  }
}

/** The first text that looks like a question, else the record itself. */
function excerptOf(value: JsonObject): string {
  const { messages } = value;
  const first: unknown = Array.isArray(messages) ? messages[0] : null;
  const content =
    first !== null && typeof first === "object" ? contentText({ role: "user", content: null, ...first }) : "";
  return (content || JSON.stringify(value)).slice(0, 200);
}
