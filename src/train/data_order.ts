/** Which rows each step trains on: a pure function of lengths, seed and step, so that the data cursor is the step number.
 *  Always: steps end with their epoch, whose last step may have fewer rows. */
import { packDataset } from "../data/pack.ts";
import type { Dataset } from "../data/shard.ts";
import type { StepRow } from "./loss.ts";

export interface OrderOptions {
  sequenceLength: number;
  seed: number;
  rowsPerStep: number;
  /** One of the two; epochs may end in a fraction. */
  epochs: number | null;
  steps: number | null;
}

interface Epoch {
  index: number;
  firstStep: number;
  steps: number;
}

export class DataOrder {
  /** Optimizer steps of the run. */
  readonly steps: number;
  private readonly epochs: Epoch[] = [];
  private packed: { epoch: number; rows: Uint32Array[] } | null = null;

  constructor(
    private readonly dataset: { lengths: Uint32Array; pairs: boolean },
    private readonly options: OrderOptions,
  ) {
    let steps = 0;
    const more = (epoch: number) =>
      options.steps === null ? epoch < (options.epochs ?? 0) : steps < options.steps;
    for (let index = 0; more(index); index++) {
      const whole = Math.ceil(this.rowsOfEpoch(index).length / options.rowsPerStep);
      if (whole === 0) break;
      const share = options.steps === null ? Math.min(1, (options.epochs ?? 0) - index) : 1;
      const count = Math.min(Math.ceil(whole * share), (options.steps ?? Infinity) - steps);
      this.epochs.push({ index, firstStep: steps, steps: count });
      steps += count;
    }
    this.steps = steps;
  }

  /** Documents of each row of step `step` (from 0). */
  rows(step: number): Uint32Array[] {
    const { index, firstStep } = this.epochAt(step);
    const first = (step - firstStep) * this.options.rowsPerStep;
    return this.rowsOfEpoch(index).slice(first, first + this.options.rowsPerStep);
  }

  /** Epochs done before step `step`, as a fraction. */
  epochsDone(step: number): number {
    if (step >= this.steps) return this.epochs.length;
    const { index, firstStep, steps } = this.epochAt(step);
    return index + (step - firstStep) / steps;
  }

  /** True where `step` steps complete an epoch. */
  endsEpoch(step: number): boolean {
    return this.epochs.some(({ firstStep, steps }) => firstStep + steps === step);
  }

  private epochAt(step: number): Epoch {
    const found = this.epochs.findLast(({ firstStep }) => firstStep <= step);
    if (!found || step >= this.steps) throw new RangeError(`step ${step} of ${this.steps}`);
    return found;
  }

  private rowsOfEpoch(epoch: number): Uint32Array[] {
    if (this.packed?.epoch !== epoch) {
      const { seed } = this.options;
      // A row of pairs has room for two.
      const sequenceLength = this.options.sequenceLength * (this.dataset.pairs ? 2 : 1);
      this.packed = { epoch, rows: packDataset(this.dataset, { sequenceLength, seed, epoch }) };
    }
    return this.packed.rows;
  }
}

/** The documents of a row, with their reference scores where there are some and KTO's labels. */
export function readRow(dataset: Dataset, row: Uint32Array, references: Float64Array | null = null): StepRow {
  return Array.from(row, (document) => ({
    ...dataset.read(document),
    ...(references ? { reference: references[document] as number } : {}),
    ...(dataset.labels ? { label: dataset.labels[document >> 1] === 1 } : {}),
  }));
}
