/** Runs steps of a Llama on a device: packs the rows into one batch, attends over the paged cache, samples and scores.
 *  All memory is reserved in the constructor; staging for penalties and masks grows to the largest step seen. */
import { type Batch, BatchBuffers, type BatchRow } from "../model/batch.ts";
import type { Attend, Llama } from "../model/llama.ts";
import { LoraWeights } from "../model/lora_weights.ts";
import { aligned, Arena } from "../tensor/arena.ts";
import type { LayerCache } from "../tensor/ops.ts";
import { bytesOf, type CacheType, type Tensor, type WeightType } from "../tensor/tensor.ts";
import { DecodeGraphs } from "./decode_graphs.ts";
import { type ContrastRow, LogitRows } from "./logit_rows.ts";
import type { ModelRunner, RowLogprob, StepResult, StepRow } from "./runner.ts";

export interface RunnerLimits {
  /** Most tokens of one step. */
  maxTokens: number;
  /** Most sequences of one step. */
  maxRows: number;
  maxModelLen: number;
  pageSize: number;
  pageCount: number;
  /** Steps that only decode run from graphs where the device has them; absent: they do. */
  graphs?: boolean;
  /** Of keys and values; without it, cacheTypeOf the weights. */
  cacheType?: CacheType;
}

/** Hidden states of a step's tokens, and the logits where all of them are wanted and nothing else. */
interface Forwarded {
  hidden: Tensor;
  logits: Tensor | null;
}

export class LlamaRunner implements ModelRunner {
  readonly vocabularySize: number;
  readonly pageSize: number;
  readonly pageCount: number;
  readonly maxTokens: number;
  readonly maxRows: number;
  readonly maxModelLen: number;
  /** Bytes of keys and values. */
  readonly cacheBytes: number;
  private readonly batches: BatchBuffers;
  private readonly logits: LogitRows;
  private readonly cache: LayerCache[];
  private readonly arenas: Arena[];
  private readonly graphs: DecodeGraphs<Forwarded> | null;
  private readonly pagesPerRow: number;
  private readonly embedSums: Tensor;
  private readonly embedStarts: Tensor;

  constructor(
    readonly model: Llama,
    limits: RunnerLimits,
  ) {
    const { device, config } = model;
    this.vocabularySize = config.vocabularySize;
    this.pageSize = limits.pageSize;
    this.pageCount = limits.pageCount;
    this.maxTokens = limits.maxTokens;
    this.maxRows = limits.maxRows;
    this.maxModelLen = limits.maxModelLen;
    const shape = {
      tokens: limits.maxTokens,
      rows: limits.maxRows,
      pagesPerRow: Math.ceil(limits.maxModelLen / limits.pageSize),
      pageSize: limits.pageSize,
    };
    const D = config.hiddenSize;
    const work = new Arena(device, "steps", BatchBuffers.bytes(shape) + aligned(D * 8) + aligned(8));
    this.batches = new BatchBuffers(work, shape);
    this.pagesPerRow = shape.pagesPerRow;
    this.graphs = device.hasGraphs && (limits.graphs ?? true) ? new DecodeGraphs(device) : null;
    this.embedSums = work.tensor([1, D], "f64");
    this.embedStarts = work.tensor([2], "i32");
    this.logits = new LogitRows(model, limits.maxRows);
    const { arena, cache } = reserveCache(model, limits);
    this.cache = cache;
    this.cacheBytes = arena.capacity;
    this.arenas = [work, arena];
  }

  loadAdapter(directory: string): Promise<LoraWeights> {
    return LoraWeights.load(this.model, directory, this.maxTokens);
  }

  step(rows: StepRow[]): StepResult[] {
    if (rows.every(({ adapter }) => adapter == null)) return this.run(rows);
    const order = groupedByAdapter(rows);
    const found = this.run(order.map((index) => rows[index] as StepRow));
    const results: StepResult[] = [];
    order.forEach((index, place) => (results[index] = found[place] as StepResult));
    return results;
  }

  /** Rows of one adapter stand together. */
  private run(rows: StepRow[]): StepResult[] {
    const { hidden, logits } = this.forward(rows);
    const first = firstTokens(rows);
    const results = rows.map((): StepResult => ({ id: null, logprob: null, scores: null, hiddenSum: null }));
    rows.forEach((row, s) => {
      const result = results[s] as StepResult;
      if (row.embed) result.hiddenSum = this.sumHidden(hidden, first[s] as number, row.tokens.length);
      if (row.score) result.scores = this.score(hidden, first[s] as number, row.score);
    });
    this.sample(rows, first, hidden, results, logits);
    return results;
  }

  private forward(rows: StepRow[]): Forwarded {
    const { batches, model, graphs, attend } = this;
    const decodes = rows.every(({ tokens, adapter }) => tokens.length === 1 && adapter == null);
    if (graphs === null || !decodes)
      return { hidden: model.forward(batches.fill(rows as BatchRow[]), attend), logits: null };
    const pages = DecodeGraphs.pagesOf(batches.pagesOf(rows as BatchRow[]), this.pagesPerRow);
    const head = rows.every(({ sample, score }) => sample !== null && score === null);
    const batch = batches.fill(rows as BatchRow[], pages);
    return graphs.run({ rows: rows.length, pages, head }, () => {
      const hidden = model.forward(batch, attend);
      return { hidden, logits: head ? this.logits.ofAll(hidden) : null };
    });
  }

  /** Logits [tokens, V] after every token of one row: for checks and calibration, not for serving. */
  logitsOf(row: StepRow): Float32Array {
    const hidden = this.model.forward(this.batches.fill([row as BatchRow]), this.attend);
    const V = this.vocabularySize;
    const logits = new Float32Array(row.tokens.length * V);
    for (let from = 0; from < row.tokens.length; from += this.maxRows) {
      const count = Math.min(this.maxRows, row.tokens.length - from);
      const block = this.logits.read(
        hidden,
        Array.from({ length: count }, (_, i) => from + i),
      );
      logits.set(block, from * V);
    }
    return logits;
  }

  close(): void {
    this.graphs?.close();
    this.logits.close();
    for (const arena of this.arenas) arena.close();
  }

  private readonly attend: Attend = (y, qkv, batch: Batch, layer) => {
    const { ops, heads, config } = this.model;
    const cache = this.cache[layer] as LayerCache;
    ops.cacheWrite(cache, qkv, batch.slots, heads, this.pageSize);
    ops.attention(y, qkv, cache, batch.sequences, heads, config.windows[layer] ?? 0, 1 / Math.sqrt(heads.E));
  };

  private sample(
    rows: StepRow[],
    first: number[],
    hidden: Tensor,
    results: StepResult[],
    logits: Tensor | null,
  ): void {
    const chosen = rows.flatMap((row, s) => (row.sample ? [s] : []));
    if (chosen.length === 0) return;
    const lastOf = (s: number): number => (first[s] as number) + (rows[s] as StepRow).tokens.length - 1;
    const wanted = chosen.map((s) => (rows[s] as StepRow).sample as NonNullable<StepRow["sample"]>);
    const contrasts = chosen.flatMap((s, row): ContrastRow[] => {
      const contrast = rows[s]?.contrast ?? null;
      return contrast === null ? [] : [{ ...contrast, row, against: lastOf(rows.indexOf(contrast.against)) }];
    });
    const samples = this.logits.sample(hidden, chosen.map(lastOf), wanted, contrasts, logits ?? undefined);
    chosen.forEach((s, i) => Object.assign(results[s] as StepResult, samples[i]));
  }

  /** Logprobs of the targets that follow each token, a block of rows at a time: never T x V logits. */
  private score(hidden: Tensor, first: number, wanted: NonNullable<StepRow["score"]>): (RowLogprob | null)[] {
    const scores: (RowLogprob | null)[] = wanted.targets.map(() => null);
    const scored = wanted.targets.flatMap((target, i) => (target >= 0 ? [i] : []));
    for (let from = 0; from < scored.length; from += this.maxRows) {
      const block = scored.slice(from, from + this.maxRows);
      const targets = block.map((i) => wanted.targets[i] as number);
      const found = this.logits.score(
        hidden,
        block.map((i) => first + i),
        targets,
        wanted.top,
      );
      block.forEach((i, j) => (scores[i] = found[j] ?? null));
    }
    return scores;
  }

  private sumHidden(hidden: Tensor, first: number, count: number): Float64Array {
    const { device, ops } = this.model;
    const sum = new Float64Array(this.embedSums.size);
    device.upload(this.embedSums, sum);
    device.upload(this.embedStarts, Int32Array.of(0, count));
    ops.sumRows(this.embedSums, hidden.rows(count, first), this.embedStarts);
    device.downloadTo(sum, this.embedSums);
    return sum;
  }
}

/** Places of the rows without an adapter, then adapter by adapter. */
function groupedByAdapter(rows: readonly StepRow[]): number[] {
  const groups = Map.groupBy(rows.keys(), (index) => rows[index]?.adapter ?? null);
  return [...(groups.get(null) ?? []), ...[...groups].flatMap(([key, group]) => (key === null ? [] : group))];
}

/** Index of each row's first token in the batch. */
function firstTokens(rows: StepRow[]): number[] {
  let next = 0;
  return rows.map((row) => (next += row.tokens.length) - row.tokens.length);
}

/** Element type of cached keys and values: that of the weights, bfloat16 beside quantised ones. */
export function cacheTypeOf<Type extends WeightType>(weights: Type): Exclude<Type, "q8" | "q4"> | "bf16" {
  return weights === "q8" || weights === "q4" ? "bf16" : (weights as Exclude<Type, "q8" | "q4">);
}

/** Bytes of one page over all layers, keys and values. */
export function pageBytes(model: Llama, pageSize: number, cacheType: CacheType): number {
  const { device, heads, config } = model;
  return 2 * config.layerCount * aligned(device.cachePageBytes(pageSize, heads.G, heads.E, cacheType));
}

function reserveCache(
  model: Llama,
  { pageSize, pageCount, cacheType }: RunnerLimits,
): { arena: Arena; cache: LayerCache[] } {
  const { device, heads, config } = model;
  const dtype = cacheType ?? cacheTypeOf(model.weights.head.dtype);
  const bytes = device.cachePageBytes(pageSize, heads.G, heads.E, dtype) * pageCount;
  const arena = new Arena(device, "cache", 2 * config.layerCount * aligned(bytes));
  const cache = Array.from({ length: config.layerCount }, (_, layer) => ({
    keys: arena.take(bytes, `keys of layer ${layer}`),
    values: arena.take(bytes, `values of layer ${layer}`),
    dtype,
  }));
  return { arena, cache };
}

/** Bytes that a runner takes beside weights and cache, for the memory plan. */
export const logitBytes = (model: Llama, maxRows: number): number =>
  2 * maxRows * model.config.vocabularySize * bytesOf.f32;
