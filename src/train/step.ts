/** One optimizer step: micro-batches forward and backward, gradients reduced, their norm clipped, AdamW, weights gathered.
 *  Always: the loss's denominator is that of the whole step over all micro-batches and ranks, known before the first
 *  forward pass; losses are summed document by document in the step's order, so their sum does not depend on either. */
import type { Device } from "../tensor/device.ts";
import type { TrainMemory } from "./allocation.ts";
import type { Share } from "./flat_state.ts";
import {
  comparedCount,
  documentSums,
  type Method,
  rowFactors,
  type StepDocument,
  type StepRow,
  trainedCount,
} from "./loss.ts";
import { fillMicroBatch, type MicroBatch, type PlacedDocument, setWeights } from "./micro_batch.ts";
import type { BlockHooks, TrainModel } from "./model.ts";
import type { Optimizer } from "./optimizer.ts";
import {
  mismatchedRows,
  preferenceTerms,
  type StepFigures,
  stepFigures,
  trainedRows,
} from "./preferences.ts";
import { uniform } from "../util/rng.ts";
import { mixSeed, type RandomPlace, site } from "./random_place.ts";

/** Where other ranks come in; each is left out when there is one rank. */
export interface StepHooks extends BlockHooks {
  /** Step `step` begins. */
  begin?(step: number): void;
  /** A micro-batch of the step begins; after the last one, gradients are complete for the whole step on this rank. */
  microBatch?(last: boolean): void;
  /** Returns when the gradient of a trained block is reduced over the ranks. */
  reduce?(block: number): void;
  /** Adds the values of all ranks in place, in rank order. */
  sum?(values: Float64Array): void;
  /** The block's share has been updated; the others get it while the next block is. */
  gather?(block: number): void;
  /** Returns when every rank has what was updated. */
  gathered?(): void;
  /** Named points of a step, for heartbeats and fault tests. */
  point?(name: "after_reduce" | "after_adamw_before_gather" | "after_step"): void;
}

export interface StepOptions {
  method: Method;
  /** Rows of a micro-batch. */
  microRows: number;
  seed: number;
  /** Forgetful causal masking: each document's probability is uniform in [min, max]. */
  forget: { min: number; max: number };
  share: Share;
}

export interface StepResult {
  loss: number;
  gradientNorm: number;
  /** The norm was not finite: nothing was updated. */
  skipped: boolean;
  /** Over all ranks: tokens, and those with a loss. */
  tokens: number;
  trainedTokens: number;
  /** Share of the trained tokens that were the most likely ones; null in float64. DPO: of both answers. */
  accuracy: number | null;
  /** DPO: share of pairs whose chosen answer has the larger reward, and the mean margin. KTO: share of answers whose reward
   *  lies on their label's side of the reference, and the mean reward of good answers less that of bad ones. */
  preference: { accuracy: number; margin: number } | null;
  /** KTO: how far the model is from its reference on answers to other questions, at least 0. */
  kl?: number;
}

export class Stepper {
  constructor(
    private readonly device: Device,
    private readonly memory: TrainMemory,
    private readonly model: TrainModel,
    private readonly optimizer: Optimizer,
    private readonly options: StepOptions,
    private readonly hooks: StepHooks = {},
  ) {}

  /** Rows of step `step` (from 0), the same on every rank; this rank takes its share of them. */
  run(step: number, rows: readonly StepRow[], learningRate: number): StepResult {
    this.hooks.begin?.(step);
    this.optimizer.zeroGradients(this.memory.working.zeros);
    const totals = this.accumulate(step, rows);
    const blocks = this.memory.trained.blocks.length;
    for (let block = 0; block < blocks; block++) this.hooks.reduce?.(block);
    this.hooks.point?.("after_reduce");
    const squares = this.optimizer.squares();
    this.hooks.sum?.(squares);
    const gradientNorm = Math.sqrt(squares.reduce((a, b) => a + b, 0));
    const skipped = !Number.isFinite(gradientNorm);
    if (!skipped) {
      const scale = this.optimizer.clipScale(gradientNorm);
      this.optimizer.update(learningRate, scale, (block) => this.hooks.gather?.(block));
      this.hooks.point?.("after_adamw_before_gather");
      this.hooks.gathered?.();
    }
    this.hooks.point?.("after_step");
    return { ...totals, gradientNorm, skipped };
  }

  /** sum weight * log p of each document, without training: validation losses and DPO's reference. */
  score(row: StepRow): Float64Array {
    const batch = this.fill(
      row.map((document) => ({ ...document, factor: 1 })),
      null,
      null,
    );
    this.model.forward(batch);
    return documentSums(batch, this.model.logprobs(batch));
  }

  /** Gradients of this rank's rows, and the step's totals over all ranks. */
  private accumulate(step: number, all: readonly StepRow[]): Omit<StepResult, "gradientNorm" | "skipped"> {
    const { method, seed } = this.options;
    const rows = trainedRows(all, method);
    const figures = stepFigures(rows, method.type === "kto" ? this.klReference(all) : 0);
    const factors = rowFactors(rows, method);
    const offsets = tokenOffsets(rows);
    const perRow = rows.map(() => ({ loss: 0, wins: 0, margin: 0, correct: 0 }));
    for (const { begin, owned, last } of this.microBatches(rows)) {
      this.hooks.microBatch?.(last);
      const documents = owned.flatMap((row, i) =>
        row.map((document) => ({ ...document, row: begin + i, factor: factors[begin + i] as number })),
      );
      if (documents.length === 0) {
        this.model.idle(method.type !== "sft");
        continue;
      }
      const place = { seed: mixSeed(seed, step), firstToken: offsets[begin] as number };
      if (method.type === "sft") this.supervised(documents, place, perRow);
      else this.preferences(documents, place, { method, figures }, perRow);
    }
    const totals = this.totals(all, perRow);
    return method.type === "kto" ? { ...totals, kl: figures.kl } : totals;
  }

  /** This rank's micro-batches. Ranks take them in turn, so that sums over ranks add them in the step's order. All take
   *  equally many (the last may be empty), because collectives need every rank. */
  private *microBatches(rows: readonly StepRow[]) {
    const { microRows, share } = this.options;
    const stride = microRows * share.world;
    const end = Math.ceil(rows.length / stride) * stride;
    for (let begin = microRows * share.rank; begin < end; begin += stride)
      yield { begin, owned: rows.slice(begin, begin + microRows), last: begin + stride >= end };
  }

  /** KTO's reference point, max(0, mean of log p - log p_ref over answers to other questions): of the whole step over all
   *  ranks, and without dropout, so that it does not depend on how the step is cut. No gradient flows through it. */
  private klReference(all: readonly StepRow[]): number {
    const rows = mismatchedRows(all);
    const offsets = rows.map((_, r) => rows.slice(0, r).reduce((sum, row) => sum + row.length, 0));
    const ratios = new Float64Array(rows.reduce((sum, row) => sum + row.length, 0));
    for (const { begin, owned } of this.microBatches(rows)) {
      const documents = owned.flat();
      if (documents.length === 0) this.model.idleScores();
      else
        this.score(documents).forEach((sum, d) => {
          ratios[(offsets[begin] as number) + d] = sum - (documents[d]?.reference ?? 0);
        });
    }
    this.hooks.sum?.(ratios);
    return ratios.length > 0 ? Math.max(0, ratios.reduce((a, b) => a + b) / ratios.length) : 0;
  }

  private supervised(documents: OwnedDocument[], place: RandomPlace, perRow: RowTotals[]): void {
    const batch = this.fill(documents, place, this.forgetRates(documents, place));
    this.model.forward(batch);
    const sums = documentSums(batch, this.model.backward(batch));
    documents.forEach(({ row }, d) => ((perRow[row] as RowTotals).loss -= sums[d] as number));
    this.countCorrect(documents, perRow);
  }

  /** Forward gives log-probabilities, these each document's coefficient, and that the weights of backward. */
  private preferences(
    documents: OwnedDocument[],
    place: RandomPlace,
    { method, figures }: { method: Exclude<Method, { type: "sft" }>; figures: StepFigures },
    perRow: RowTotals[],
  ): void {
    const unit = documents.map((document) => ({ ...document, factor: 1 }));
    const batch = this.fill(unit, place, this.forgetRates(documents, place));
    this.model.forward(batch);
    const sums = documentSums(batch, this.model.logprobs(batch));
    const ratio = (d: number) => (sums[d] as number) - (documents[d]?.reference ?? 0);
    const coefficients = new Float64Array(documents.length);
    for (const term of preferenceTerms(method, documents, ratio, figures)) {
      const { row, factor } = documents[term.coefficients[0]?.[0] ?? 0] as OwnedDocument;
      for (const [d, coefficient] of term.coefficients) coefficients[d] = coefficient * factor;
      const total = perRow[row] as RowTotals;
      total.loss += term.loss * factor;
      total.margin += term.margin;
      total.wins += term.wins ? 1 : 0;
    }
    const owner = batch.hostDocuments;
    setWeights(
      this.device,
      batch,
      batch.hostWeights.map((weight, r) => weight * (coefficients[owner[r] as number] as number)),
    );
    this.model.backward(batch);
    this.countCorrect(documents, perRow);
  }

  private countCorrect(documents: OwnedDocument[], perRow: RowTotals[]): void {
    (perRow[documents[0]?.row ?? 0] as RowTotals).correct += this.model.correct ?? 0;
  }

  private fill(
    documents: PlacedDocument[],
    place: RandomPlace | null,
    forget: Float32Array | null,
  ): MicroBatch {
    return fillMicroBatch(this.device, this.memory.working.batch, documents, place, forget);
  }

  /** A document's rate of forgetful causal masking depends on its place in the step alone. */
  private forgetRates(documents: readonly PlacedDocument[], place: RandomPlace): Float32Array | null {
    const { min, max } = this.options.forget;
    if (max === 0) return null;
    const seed = mixSeed(place.seed, site.forget) >>> 0;
    let at = place.firstToken;
    return Float32Array.from(documents, ({ ids }) => {
      const rate = min + (max - min) * uniform(seed, at);
      at += ids.length;
      return rate;
    });
  }

  /** `all`: the rows with what is not trained on. */
  private totals(all: readonly StepRow[], perRow: RowTotals[]) {
    const { method } = this.options;
    const rows = trainedRows(all, method);
    const values = Float64Array.from(
      perRow.flatMap(({ loss, wins, margin, correct }) => [loss, wins, margin, correct]),
    );
    this.hooks.sum?.(values);
    const sum = (field: number) => {
      let total = 0;
      for (let i = field; i < values.length; i += 4) total += values[i] as number;
      return total;
    };
    // The margins of KTO are shares of a mean.
    const margins = method.type === "dpo" ? comparedCount(rows, method) : 1;
    const trainedTokens = rows.flat().reduce((total, document) => total + trainedCount(document), 0);
    return {
      loss: sum(0),
      tokens: all.flat().reduce((total, { ids }) => total + ids.length, 0),
      trainedTokens,
      accuracy:
        this.memory.base.types.gradient === "f64" || trainedTokens === 0 ? null : sum(3) / trainedTokens,
      preference:
        method.type === "sft"
          ? null
          : { accuracy: sum(1) / comparedCount(rows, method), margin: sum(2) / margins },
    };
  }
}

interface OwnedDocument extends StepDocument {
  row: number;
  factor: number;
}

interface RowTotals {
  loss: number;
  wins: number;
  margin: number;
  correct: number;
}

/** Tokens of the step before each row. */
function tokenOffsets(rows: readonly StepRow[]): number[] {
  let sum = 0;
  return rows.map((row) => {
    const before = sum;
    for (const { ids } of row) sum += ids.length;
    return before;
  });
}
