/** Runs filters one after the other over a stream of dialogues, and counts what each did by reason and by source.
 *  Always: the stream is never whole in memory: before a filter that must see everything first, it goes through a file of the
 *  work folder; every dialogue that comes in goes out, as itself, as its pieces, or as a drop; equal input gives equal output. */
import { createWriteStream } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { once } from "node:events";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import type { Dialogue, Drop } from "../dialogue.ts";
import { readLines } from "../json_lines.ts";
import type { Filter } from "./filter.ts";
import { countOutcome, emptyCounts, type FilterReport, type RuleCounts } from "./report.ts";
import { excerptOf } from "./texts.ts";

export interface FilterSinks {
  kept(dialogue: Dialogue): void | Promise<void>;
  dropped(drop: Drop): void | Promise<void>;
}

export interface RunOptions {
  /** For files between passes; made where it is missing, and empty of them afterwards. */
  workDirectory: string;
  /** Dialogues of the input where they are known, for the progress bar. */
  expected?: number;
  onProgress?: (stage: string, done: number, total: number) => void;
}

export async function runFilters(
  input: AsyncIterable<Dialogue>,
  filters: readonly Filter[],
  sinks: FilterSinks,
  options: RunOptions,
): Promise<FilterReport> {
  const run = new Run(filters, sinks, options);
  return run.over(input);
}

class Run {
  private readonly counts: RuleCounts[];
  private input = 0;
  private output = 0;
  private files: string[] = [];

  constructor(
    private readonly filters: readonly Filter[],
    private readonly sinks: FilterSinks,
    private readonly options: RunOptions,
  ) {
    this.counts = filters.map(({ name }) => emptyCounts(name));
  }

  async over(input: AsyncIterable<Dialogue>): Promise<FilterReport> {
    try {
      let stream = this.counted(input);
      for (const [i, filter] of this.filters.entries()) {
        if (filter.prepare) stream = await this.prepared(filter, stream, i);
        stream = this.applied(filter, this.counts[i]!, stream);
      }
      for await (const dialogue of stream) {
        this.output++;
        await this.sinks.kept(dialogue);
      }
    } finally {
      for (const file of this.files) await rm(file, { force: true });
    }
    this.filters.forEach((filter, i) => {
      if (filter.report) this.counts[i]!.report = filter.report();
    });
    return { input: this.input, output: this.output, rules: this.counts };
  }

  private async *counted(input: AsyncIterable<Dialogue>): AsyncGenerator<Dialogue> {
    for await (const dialogue of input) {
      this.input++;
      yield dialogue;
    }
  }

  /** One pass writes the stream to a file and lets the filter see it; the file is the stream from then on. */
  private async prepared(
    filter: Filter,
    stream: AsyncIterable<Dialogue>,
    index: number,
  ): Promise<AsyncGenerator<Dialogue>> {
    await mkdir(this.options.workDirectory, { recursive: true });
    const path = join(this.options.workDirectory, `before-${index + 1}-${filter.name}.jsonl`);
    this.files.push(path);
    const file = createWriteStream(path, { highWaterMark: 2 ** 20 });
    const written = finished(file);
    // A full disk may be told between two writes; it is thrown below, by `await written`.
    written.catch(() => {});
    const stage = `${filter.name}, first pass`;
    let count = 0;
    const { options } = this;
    async function* writing(): AsyncGenerator<Dialogue> {
      for await (const dialogue of stream) {
        if (!file.write(`${JSON.stringify(dialogue)}\n`)) await once(file, "drain");
        options.onProgress?.(stage, ++count, Math.max(options.expected ?? 0, count + 1));
        yield dialogue;
      }
    }
    try {
      await filter.prepare!(writing());
    } finally {
      file.end();
      await written;
    }
    options.onProgress?.(stage, count, count);
    return this.read(path, `${filter.name}, second pass`, count);
  }

  private async *read(path: string, stage: string, total: number): AsyncGenerator<Dialogue> {
    let count = 0;
    for await (const dialogue of readLines<Dialogue>(path)) {
      yield dialogue;
      this.options.onProgress?.(stage, ++count, total);
    }
  }

  private async *applied(
    filter: Filter,
    counts: RuleCounts,
    stream: AsyncIterable<Dialogue>,
  ): AsyncGenerator<Dialogue> {
    for await (const dialogue of stream) {
      const outcome = filter.apply(dialogue);
      countOutcome(counts, dialogue.source, outcome);
      if ("kept" in outcome) yield* outcome.kept;
      else
        await this.sinks.dropped({
          id: dialogue.id,
          rule: filter.name,
          ...outcome.dropped,
          excerpt: excerptOf(dialogue),
        });
    }
  }
}
