/** Weights of a LLaMA straight in device memory, random and without a file: for speed only.
 *  Every matrix takes its numbers from another place of one random block, so that none is zero or equal to its neighbour. */
import type { LlamaConfig } from "../../src/model/config.ts";
import {
  type Block,
  type LlamaWeights,
  type Parameter,
  parametersOf,
  partsOf,
} from "../../src/model/weights.ts";
import { aligned, Arena } from "../../src/tensor/arena.ts";
import type { Device } from "../../src/tensor/device.ts";
import {
  bytesOf,
  type DType,
  type PackedMatrix,
  type Tensor,
  type WeightType,
} from "../../src/tensor/tensor.ts";
import { randomBits } from "../random_model.ts";

const absent = {
  qkvBias: null,
  queryNorm: null,
  keyNorm: null,
  outputBias: null,
  gateUpBias: null,
  downBias: null,
};

/** Matrices of type `packed`; vectors of ones in `activations`; a bfloat16 table. */
export function randomWeights(
  device: Device,
  config: LlamaConfig,
  activations: DType,
  packed: WeightType = "bf16",
): LlamaWeights {
  const { layers, top, embedding: part } = parametersOf(config);
  const parameters = [...layers.flat(), ...top];
  const [V = 0, D = 0] = part.shape;
  const sizes = parameters.map((p) =>
    aligned("matrix" in p ? device.packBytes(p.N, p.K, packed) : p.size * bytesOf[activations]),
  );
  const embeddingBytes = aligned(V * D * bytesOf.bf16);
  const arena = new Arena(device, "weights", embeddingBytes + sizes.reduce((a, b) => a + b, 0));
  const source = new RandomSource(Math.max(...parameters.map((p) => ("matrix" in p ? p.K : p.size))));
  const embedding = arena.tensor([V, D], "bf16");
  for (let row = 0; row < V; row += source.rows(D)) {
    const rows = Math.min(source.rows(D), V - row);
    device.upload(embedding.rows(rows, row), source.take(rows * D));
  }
  const make = (p: Parameter) =>
    "matrix" in p ? randomMatrix(arena, p, packed, source) : ones(arena, p.size, activations);
  const all = (list: Parameter[]) => ({
    ...absent,
    ...Object.fromEntries(list.map((p) => [p.key, make(p)])),
  });
  const blocks = layers.map((list) => all(list) as unknown as Block);
  const rest = all(top) as unknown as { norm: Tensor; head: PackedMatrix };
  const count = [...parameters.flatMap(partsOf), part].reduce(
    (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1),
    0,
  );
  return {
    embedding,
    blocks,
    norm: rest.norm,
    head: rest.head,
    activationType: activations,
    parameterCount: count,
    bytes: arena.used - embeddingBytes,
    close: () => arena.close(),
  };
}

function randomMatrix(
  arena: Arena,
  { N, K }: { N: number; K: number },
  type: WeightType,
  source: RandomSource,
): PackedMatrix {
  const packed = arena.packed(N, K, type);
  for (let row = 0; row < N; row += source.rows(K)) {
    const rows = Math.min(source.rows(K), N - row);
    arena.device.pack(packed, source.take(rows * K), row, rows, "bf16");
  }
  return packed;
}

function ones(arena: Arena, size: number, dtype: DType): Tensor {
  const tensor = arena.tensor([size], dtype);
  arena.device.upload(
    tensor,
    dtype === "bf16" ? new Uint16Array(size).fill(0x3f80) : new Float32Array(size).fill(1),
  );
  return tensor;
}

/** A block of random bfloat16 numbers, read from a place that moves. */
class RandomSource {
  private readonly block: Uint16Array;
  private next = 0;
  private readonly most: number;

  /** `longest`: of a row. */
  constructor(longest: number) {
    this.most = Math.max(longest, 1 << 23);
    this.block = new Uint16Array(randomBits(2 * this.most).buffer);
  }

  /** How many rows of this length can be taken at once. */
  rows(length: number): number {
    return Math.floor(this.most / length);
  }

  take(count: number): Uint16Array {
    this.next = (this.next + 7919) % (this.block.length - count + 1);
    return this.block.subarray(this.next, this.next + count);
  }
}
