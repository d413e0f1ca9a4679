/** An adapter on a device, beside the packed weights of its base: y += s B A x for the rows that ask for it.
 *  The parts of a fused matrix (q, k, v; gate, up) are one product: their A lie on top of each other, their B on the diagonal.
 *  Always: a row's result depends on that row alone, bit for bit, as with every packed product; s is folded into A. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { aligned, Arena } from "../tensor/arena.ts";
import type { Device } from "../tensor/device.ts";
import type { Ops } from "../tensor/ops.ts";
import { bytesOf, type DType, type PackedMatrix, type Tensor } from "../tensor/tensor.ts";
import { UsageError } from "../util/errors.ts";
import type { LlamaConfig } from "./config.ts";
import {
  adapterConfigFile,
  type AdapterPart,
  type AdapterTensors,
  adapterParts,
  adapterTensorName,
  adapterWeightsFile,
  checkAdapter,
  loraScale,
} from "./lora.ts";
import { originOf, type Shard } from "./shard.ts";
import { toFloats } from "./weights.ts";

/** A [parts * rank, K] and B [N, parts * rank] of one fused matrix. */
interface Pair {
  a: PackedMatrix;
  b: PackedMatrix;
}

/** The model that an adapter is loaded beside. */
export interface AdapterBase {
  device: Device;
  config: LlamaConfig;
  /** Element type of activations; adapters compute in it. */
  dtype: DType;
  /** Where the base is one rank's share of a model: the whole of it, and which share. The adapter is shared out likewise. */
  wholeConfig?: LlamaConfig;
  shard?: Shard;
}

export class LoraWeights {
  /** Told before the memory goes. */
  onClose: () => void = () => {};

  private constructor(
    private readonly arena: Arena,
    /** By key of the fused matrix, a map a layer. */
    private readonly layers: readonly ReadonlyMap<string, Pair>[],
    private readonly scratch: Tensor,
  ) {}

  /** Reads layer by layer and lets others run in between. Throws UsageError where the directory holds no adapter of this model.
   *  `maxTokens`: the most rows of one `add`. */
  static async load(base: AdapterBase, directory: string, maxTokens: number): Promise<LoraWeights> {
    const { device, config, dtype } = base;
    const { wholeConfig = config, shard } = base;
    const { lora, layers: whole, tensors } = await checkAdapter(wholeConfig, directory);
    const layers = whole.map((_, layer) => adapterParts(config, lora, layer));
    const groups = layers.map((parts) => [...Map.groupBy(parts, (part) => part.key).values()]);
    const sizes = groups.flat().map((parts) => sizeOf(parts, lora.rank));
    const widest = Math.max(...sizes.map(({ R }) => R));
    const bytes = sizes.reduce(
      (sum, { N, K, R }) =>
        sum + aligned(device.packBytes(R, K, dtype)) + aligned(device.packBytes(N, R, dtype)),
      aligned(maxTokens * widest * bytesOf[dtype]),
    );
    const arena = new Arena(device, `adapter ${directory}`, bytes);
    try {
      const scratch = arena.tensor([maxTokens * widest], dtype);
      const origin = originsOf(whole, wholeConfig, shard ?? { rank: 0, world: 1 });
      const reader = new Reader(arena, tensors, dtype, lora.rank, loraScale(lora), origin);
      const loaded: Map<string, Pair>[] = [];
      for (const [layer, list] of groups.entries()) {
        const pairs = new Map<string, Pair>();
        for (const parts of list) pairs.set((parts[0] as AdapterPart).key, await reader.pair(layer, parts));
        loaded.push(pairs);
      }
      return new LoraWeights(arena, loaded, scratch);
    } catch (error) {
      arena.close();
      throw error;
    }
  }

  /** y [T, N] += s B A x, where the adapter has a part in matrix `key` of block `layer`. */
  add(ops: Ops, y: Tensor, x: Tensor, layer: number, key: string): void {
    const pair = this.layers[layer]?.get(key);
    if (pair === undefined) return;
    const T = x.dim(0);
    const u = this.scratch.rows(T * pair.a.N).reshape([T, pair.a.N]);
    ops.matmul(u, x, pair.a);
    ops.matmul(y, u, pair.b, null, true);
  }

  get bytes(): number {
    return this.arena.capacity;
  }

  close(): void {
    this.onClose();
    this.arena.close();
  }
}

/** Changes whenever the files of an adapter were written again. Throws UsageError where one is missing. */
export async function adapterStamp(directory: string): Promise<string> {
  const names = [adapterConfigFile, adapterWeightsFile];
  const stamps = names.map(async (name) => {
    const info = await stat(join(directory, name)).catch(() => null);
    if (info === null) throw new UsageError(`${join(directory, name)} is not there, or cannot be read.`);
    return `${info.size} ${info.mtimeMs}`;
  });
  return (await Promise.all(stamps)).join(" ");
}

/** Where in the whole matrix a part of the share begins, and how many columns the whole has. */
function originsOf(whole: readonly AdapterPart[][], config: LlamaConfig, shard: Shard) {
  return (
    layer: number,
    { path, width, K }: AdapterPart,
  ): { row: number; column: number; columns: number } => {
    const all = whole[layer]?.find((part) => part.path === path) as AdapterPart;
    return { ...originOf(path, [width, K], [all.width, all.K], { config, shard }), columns: all.K };
  };
}

/** R: the ranks of all parts together. */
function sizeOf(parts: readonly AdapterPart[], rank: number): { N: number; K: number; R: number } {
  const { N, K } = parts[0] as AdapterPart;
  return { N, K, R: parts.length * rank };
}

class Reader {
  private readonly file: Bun.BunFile;

  constructor(
    private readonly arena: Arena,
    private readonly tensors: AdapterTensors,
    private readonly dtype: DType,
    private readonly rank: number,
    private readonly scale: number,
    private readonly origin: ReturnType<typeof originsOf>,
  ) {
    this.file = Bun.file(tensors.path);
  }

  async pair(layer: number, parts: readonly AdapterPart[]): Promise<Pair> {
    const { arena, rank, scale } = this;
    const { N, K, R } = sizeOf(parts, rank);
    const a = this.zeros(R * K);
    const b = this.zeros(N * R);
    for (const [i, part] of parts.entries()) {
      const { path, column, width } = part;
      const first = this.origin(layer, part);
      const down = await this.floats(adapterTensorName(layer, path, "lora_A"));
      for (let r = 0; r < rank; r++) {
        const at = r * first.columns + first.column;
        a.set(
          down.subarray(at, at + K).map((value) => value * scale),
          (i * rank + r) * K,
        );
      }
      const up = await this.floats(adapterTensorName(layer, path, "lora_B"));
      for (let n = 0; n < width; n++)
        b.set(up.subarray((first.row + n) * rank, (first.row + n + 1) * rank), (column + n) * R + i * rank);
    }
    const packed = { a: arena.packed(R, K, this.dtype), b: arena.packed(N, R, this.dtype) };
    const source = this.dtype === "f64" ? "f64" : "f32";
    arena.device.pack(packed.a, a, 0, R, source);
    arena.device.pack(packed.b, b, 0, N, source);
    return packed;
  }

  private zeros(size: number): Float32Array | Float64Array {
    return this.dtype === "f64" ? new Float64Array(size) : new Float32Array(size);
  }

  private async floats(name: string): Promise<Float32Array | Float64Array> {
    const { begin, end, type } = this.tensors.entryOf(name);
    const values = toFloats(await this.file.slice(begin, end).bytes(), type);
    return this.dtype === "f64" ? Float64Array.from(values) : values;
  }
}
