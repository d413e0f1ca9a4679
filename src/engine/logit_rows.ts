/** Logits of a few rows of hidden states: the head, sampling and logprobs on the device. */
import type { Llama } from "../model/llama.ts";
import { aligned, Arena } from "../tensor/arena.ts";
import type { Device } from "../tensor/device.ts";
import type { SampleArrays } from "../tensor/ops.ts";
import { bytesOf, type DType, Tensor } from "../tensor/tensor.ts";
import type { RowLogprob, SampleRow, StepResult } from "./runner.ts";

/** Sample `row` (its place among the sampled ones) pushed away from the row `against` of the hidden states. */
export interface ContrastRow {
  row: number;
  against: number;
  strength: number;
  plausibility: number;
}

/** Most tokens that logprobs may list beside the chosen one. */
export const topLogprobsMax = 64;

export class LogitRows {
  private readonly arena: Arena;
  private readonly hidden: Tensor;
  private readonly logits: Tensor;
  /** Logits before penalties, where logprobs are asked for. */
  private readonly raw: Tensor;
  private readonly wide: Tensor | null;
  private readonly rowIndex: Tensor;
  private readonly ids: Tensor;
  private readonly out: { logprobs: Tensor; ranks: Tensor; topIds: Tensor; topLogprobs: Tensor };
  private readonly staging: Staging;

  constructor(
    private readonly model: Llama,
    private readonly maxRows: number,
  ) {
    const { hiddenSize: D, vocabularySize: V } = model.config;
    const R = maxRows;
    const k = topLogprobsMax;
    const wide = model.dtype === "f64";
    const shapes: [number[], DType][] = [
      [[R, D], model.dtype],
      [[R, V], "f32"],
      [[R, V], "f32"],
      [[R], "i32"],
      [[R], "i32"],
      [[R], "f32"],
      [[R], "i32"],
      [[R, k], "i32"],
      [[R, k], "f32"],
      ...(wide ? [[[R, V], "f64"] as [number[], DType]] : []),
    ];
    const bytes = shapes.reduce(
      (sum, [shape, type]) => sum + aligned(shape.reduce((a, b) => a * b, 1) * bytesOf[type]),
      0,
    );
    this.arena = new Arena(model.device, "logits", bytes);
    const [hidden, logits, raw, rowIndex, ids, logprobs, ranks, topIds, topLogprobs, doubles] = shapes.map(
      ([shape, type]) => this.arena.tensor(shape, type),
    ) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | undefined];
    this.hidden = hidden;
    this.logits = logits;
    this.raw = raw;
    this.rowIndex = rowIndex;
    this.ids = ids;
    this.out = { logprobs, ranks, topIds, topLogprobs };
    this.wide = doubles ?? null;
    this.staging = new Staging(model.device);
  }

  /** Logits of all rows of `hidden`, in order: ops alone, so that a graph can hold them. */
  ofAll(hidden: Tensor): Tensor {
    const logits = this.logits.rows(hidden.dim(0));
    this.model.head(logits, hidden, [...Array(hidden.dim(0)).keys()]);
    return logits;
  }

  /** Samples one id after each of the given rows of `hidden`; their logits may be computed already. */
  sample(
    hidden: Tensor,
    rows: number[],
    wanted: SampleRow[],
    contrasts: ContrastRow[],
    computed = this.compute(hidden, [...rows, ...contrasts.map(({ against }) => against)]),
  ): Pick<StepResult, "id" | "logprob">[] {
    const { device, ops } = this.model;
    if (contrasts.length > 0) {
      const { pairs, scalars } = this.staging.contrasts(contrasts, rows.length);
      ops.contrast(computed, pairs, scalars);
    }
    const logits = computed.rows(rows.length);
    const anyLogprobs = wanted.some((row) => row.logprobs !== null);
    if (anyLogprobs) device.copy(this.raw.data, logits.data, logits.bytes);
    const ids = this.ids.rows(rows.length);
    ops.sample(ids, logits, this.staging.fill(wanted, this.model.config.vocabularySize));
    const chosen = device.download(ids) as Int32Array;
    if (!anyLogprobs) return wanted.map((_, r) => ({ id: chosen[r] as number, logprob: null }));
    const top = Math.max(...wanted.map((row) => row.logprobs ?? 0));
    const found = this.logprobs(this.raw.rows(rows.length), chosen, top);
    return wanted.map((row, r) => ({
      id: chosen[r] as number,
      logprob: trimmed(found[r] ?? null, row.logprobs),
    }));
  }

  /** Logprobs of `targets` after the given rows of `hidden`, with the `top` best. */
  score(hidden: Tensor, rows: number[], targets: number[], top: number): (RowLogprob | null)[] {
    return this.logprobs(this.compute(hidden, rows), Int32Array.from(targets), top);
  }

  /** All logits of the given rows; for checks against goldens. */
  read(hidden: Tensor, rows: number[]): Float32Array {
    return this.model.device.download(this.compute(hidden, rows)) as Float32Array;
  }

  close(): void {
    this.arena.close();
    this.staging.close();
  }

  private compute(hidden: Tensor, rows: number[]): Tensor {
    if (rows.length > this.maxRows)
      throw new RangeError(`logits of ${rows.length} rows, at most ${this.maxRows}`);
    const { device, ops } = this.model;
    const index = this.rowIndex.rows(rows.length);
    device.upload(index, Int32Array.from(rows));
    const picked = this.hidden.rows(rows.length);
    ops.gatherRows(picked, hidden, index);
    const logits = this.logits.rows(rows.length);
    if (!this.wide) {
      this.model.head(logits, picked, rows);
      return logits;
    }
    const wide = this.wide.rows(rows.length);
    this.model.head(wide, picked, rows);
    device.upload(logits, Float32Array.from(device.download(wide) as Float64Array));
    return logits;
  }

  private logprobs(logits: Tensor, ids: Int32Array, top: number): (RowLogprob | null)[] {
    const { device, ops } = this.model;
    const R = ids.length;
    const k = Math.min(top, topLogprobsMax, this.model.config.vocabularySize);
    const index = this.ids.rows(R);
    device.upload(index, ids);
    const out = { ...this.out, logprobs: this.out.logprobs.rows(R), ranks: this.out.ranks.rows(R) };
    ops.logprobs(out, logits, index, k);
    const values = device.download(out.logprobs) as Float32Array;
    const ranks = device.download(out.ranks) as Int32Array;
    const flat = (tensor: Tensor) => device.download(new Tensor(tensor.data, [R * k], tensor.dtype));
    const topIds = flat(out.topIds);
    const topValues = flat(out.topLogprobs);
    return Array.from(ids, (id, r) => {
      if (id < 0) return null;
      const best = Array.from({ length: k }, (_, i): [number, number] => [
        topIds[r * k + i] as number,
        topValues[r * k + i] as number,
      ]);
      return { id, logprob: values[r] as number, rank: ranks[r] as number, top: best };
    });
  }
}

function trimmed(found: RowLogprob | null, top: number | null): RowLogprob | null {
  return found && top !== null ? { ...found, top: found.top.slice(0, top) } : null;
}

/** Device arrays of one koala_sample or koala_contrast call; each grows to the largest step seen. */
class Staging {
  private readonly arenas = new Map<string, Arena>();
  constructor(private readonly device: Device) {}

  fill(rows: SampleRow[], V: number): SampleArrays {
    const scalars = rows.flatMap((row) => [
      row.temperature,
      row.topP,
      row.minP,
      row.repetitionPenalty,
      row.frequencyPenalty,
      row.presencePenalty,
      row.topK,
    ]);
    const words = Math.ceil(V / 32);
    const masks = rows.flatMap((row) => (row.mask ? [row.mask] : []));
    const mask = new Uint32Array(masks.length * words);
    masks.forEach((bits, i) => mask.set(bits.subarray(0, words), i * words));
    let masked = 0;
    return {
      scalars: this.send("scalars", Float32Array.from(scalars), "f32"),
      uniform: this.send(
        "uniform",
        Float64Array.from(rows, (row) => row.uniform),
        "f64",
      ),
      historyStarts: this.send("historyStarts", startsOf(rows.map((row) => row.history)), "i32"),
      history: this.send("history", Int32Array.from(joined(rows.map((row) => row.history))), "i32"),
      counts: this.send("counts", Int32Array.from(joined(rows.map((row) => row.counts))), "i32"),
      biasStarts: this.send("biasStarts", startsOf(rows.map((row) => row.biasIds)), "i32"),
      biasIds: this.send("biasIds", Int32Array.from(joined(rows.map((row) => row.biasIds))), "i32"),
      biasValues: this.send(
        "biasValues",
        Float32Array.from(joined(rows.map((row) => row.biasValues))),
        "f32",
      ),
      maskRows: this.send(
        "maskRows",
        Int32Array.from(rows, (row) => (row.mask ? masked++ : -1)),
        "i32",
      ),
      mask: this.send("mask", new Int32Array(mask.buffer), "i32"),
    };
  }

  /** The others' logits begin behind those of `rows` sampled rows. */
  contrasts(list: ContrastRow[], rows: number): { pairs: Tensor; scalars: Tensor } {
    const pairs = Int32Array.from(list.flatMap(({ row }, c) => [row, rows + c]));
    const scalars = Float32Array.from(list.flatMap(({ strength, plausibility }) => [strength, plausibility]));
    return {
      pairs: this.send("pairs", pairs, "i32"),
      scalars: this.send("contrasts", scalars, "f32"),
    };
  }

  close(): void {
    for (const arena of this.arenas.values()) arena.close();
  }

  private send(name: string, values: Float32Array | Float64Array | Int32Array, dtype: DType): Tensor {
    const bytes = Math.max(aligned(values.byteLength), 64);
    let arena = this.arenas.get(name);
    if (!arena || arena.capacity < bytes) {
      arena?.close();
      arena = new Arena(this.device, `sampling ${name}`, 2 ** Math.ceil(Math.log2(bytes)));
      this.arenas.set(name, arena);
    }
    arena.used = 0;
    const tensor = arena.tensor([values.length], dtype);
    this.device.upload(tensor, values);
    return tensor;
  }
}

const joined = (lists: ArrayLike<number>[]): number[] => lists.flatMap((list) => Array.from(list));

function startsOf(lists: ArrayLike<number>[]): Int32Array {
  const starts = new Int32Array(lists.length + 1);
  lists.forEach((list, i) => (starts[i + 1] = (starts[i] as number) + list.length));
  return starts;
}
