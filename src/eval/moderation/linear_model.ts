/** The built-in classifier: one logistic regression a category over tf-idf of hashed n-grams, its weights in 8 bits.
 *  A default that is better than nothing, measured in models/moderation/README.md; no claim of safety.
 *  Always: a score of 0.5 is the point that training chose for flagging. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "../../util/errors.ts";
import { rootDirectory } from "../../util/self_command.ts";
import { type Category, labelled } from "./categories.ts";
import { bucketCount, features, type SparseVector, weigh } from "./features.ts";

const format = "koala-linear-1";
const headerSchema = z.strictObject({
  format: z.literal(format),
  buckets: z.literal(bucketCount),
  categories: z.array(z.enum(labelled)),
  scales: z.array(z.number()),
  biases: z.array(z.number()),
});

/** Of one category; `scale` times an integer from -127 to 127 is a weight. */
interface Quantized {
  scale: number;
  bias: number;
  weights: Int8Array;
}

export class LinearModel {
  /** `idf`: how rare each bucket is, as `rarity` gives it. */
  constructor(
    private readonly idf: Uint8Array,
    private readonly parts: ReadonlyMap<Category, Quantized>,
  ) {}

  get categories(): Category[] {
    return [...this.parts.keys()];
  }

  /** 0 to 1 for each category that it was trained on. */
  score(text: string): Map<Category, number> {
    const vector = weigh(features(text), this.idf);
    return new Map([...this.parts].map(([category, part]) => [category, sigmoid(logit(part, vector))]));
  }

  /** Two files: model.json, and weights.bin with the idf bytes first, then the weights of each category. */
  write(directory: string): void {
    const parts = [...this.parts.values()];
    const header = {
      format,
      buckets: bucketCount,
      categories: this.categories,
      scales: parts.map(({ scale }) => scale),
      biases: parts.map(({ bias }) => bias),
    };
    writeFileSync(join(directory, "model.json"), `${JSON.stringify(header, null, 2)}\n`);
    writeFileSync(
      join(directory, "weights.bin"),
      Buffer.concat([
        this.idf,
        ...parts.map(({ weights }) => Buffer.from(weights.buffer, weights.byteOffset, bucketCount)),
      ]),
    );
  }

  static read(directory: string): LinearModel {
    const bytes = readFileSync(join(directory, "weights.bin"));
    const header = headerSchema.safeParse(JSON.parse(readFileSync(join(directory, "model.json"), "utf8")));
    if (!header.success || bytes.length !== (header.data.categories.length + 1) * bucketCount)
      throw new UsageError(`${directory} holds no classifier of this version. Train it again.`);
    const { categories, scales, biases } = header.data;
    const at = (i: number): [ArrayBuffer, number, number] => [
      bytes.buffer as ArrayBuffer,
      bytes.byteOffset + i * bucketCount,
      bucketCount,
    ];
    return new LinearModel(
      new Uint8Array(...at(0)),
      new Map(
        categories.map((category, i) => [
          category,
          {
            scale: scales[i]!,
            bias: biases[i]!,
            weights: new Int8Array(...at(i + 1)),
          },
        ]),
      ),
    );
  }

  /** The one that comes with Koala. */
  static builtin(): LinearModel {
    return (builtin ??= LinearModel.read(join(rootDirectory, "models", "moderation")));
  }
}

let builtin: LinearModel | null = null;

/** `bias` moves the point where a text is flagged to 0. */
export function quantize(weights: Float64Array, bias: number): Quantized {
  const largest = weights.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0);
  const scale = largest === 0 ? 1 : largest / 127;
  return { scale, bias, weights: Int8Array.from(weights, (weight) => Math.round(weight / scale)) };
}

function logit({ scale, bias, weights }: Quantized, { indices, values }: SparseVector): number {
  let sum = 0;
  for (let i = 0; i < indices.length; i++) sum += weights[indices[i]!]! * values[i]!;
  return sum * scale + bias;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
