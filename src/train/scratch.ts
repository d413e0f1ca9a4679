/** Scratch that a device's ops take while a run trains: found by rehearsing each op that takes some at the run's largest sizes,
 *  so that the ops themselves say it, and taken at start.
 *  Always: whatever a micro-batch holds, its ops need no more (but for waves of short documents that fill less evenly). */
import type { LlamaConfig } from "../model/config.ts";
import { flatLayout } from "../model/flat_layout.ts";
import { adapterParts } from "../model/lora.ts";
import { parametersOf } from "../model/weights.ts";
import { Arena } from "../tensor/arena.ts";
import type { Device } from "../tensor/device.ts";
import { type DType, PackedMatrix, Tensor } from "../tensor/tensor.ts";
import { flowTypes } from "./activations.ts";
import type { TrainSetup } from "./allocation.ts";
import { precisionTypes } from "./flat_state.ts";
import { TrainOps } from "./ops.ts";

const tokensMax = 2 ** 22;

/** Bytes of scratch; with `reserve` the device takes them. */
export function scratchBytes(
  device: Device,
  config: LlamaConfig,
  setup: TrainSetup,
  reserve: boolean,
): number {
  const ops = new TrainOps(device);
  // Sizes of ops are 32 bits. A micro-batch of more tokens fits nowhere, whatever its scratch.
  setup = { ...setup, maxTokens: Math.min(setup.maxTokens, tokensMax) };
  const starts = new Arena(device, "starts", 4 * (setup.maxTokens + 2) + 64);
  try {
    const calls = [
      ...productCalls(ops, config, setup),
      ...normCalls(ops, config, setup),
      ...attentionCalls(ops, config, setup, starts),
    ];
    return device.scratch(calls, reserve);
  } finally {
    starts.close();
  }
}

type Calls = (() => void)[];

/** A shape; a rehearsal reads and writes nothing. */
const shaped = (shape: number[], dtype: DType): Tensor => new Tensor(64, shape, dtype);

function productCalls(ops: TrainOps, config: LlamaConfig, setup: TrainSetup): Calls {
  const { compute } = precisionTypes[setup.precision];
  const { activation, sum } = flowTypes(setup.precision, setup.activations);
  const { maxTokens: T, lora } = setup;
  const { layers } = parametersOf(config);
  /** y [rows, N] of x [rows, K], both of type `flow`, and the gradients. */
  const product = (
    rows: number,
    [N, K]: [number, number],
    [type, flow]: [DType, DType],
    trained = !lora,
  ): Calls => {
    const [x, y] = [shaped([rows, K], flow), shaped([rows, N], flow)];
    return [
      () => ops.forward.matmul(y, x, new PackedMatrix(64, N, K, type, 0)),
      () => ops.forward.matmul(x, y, new PackedMatrix(64, K, N, type, 0)),
      ...(trained ? [() => ops.matmulWeightGradient(shaped([N, K], sum), y, x, type)] : []),
    ];
  };
  const head = Math.min(setup.chunkRows, T);
  const own: [DType, DType] = [activation, activation];
  return [
    ...(layers[0] ?? []).flatMap((p) => ("matrix" in p ? product(T, [p.N, p.K], [compute, activation]) : [])),
    ...product(head, [config.vocabularySize, config.hiddenSize], [compute, sum]),
    ...(lora ? adapterParts(config, lora, 0) : []).flatMap(({ width, K }) => [
      ...product(T, [lora?.rank ?? 1, K], own, true),
      ...product(T, [width, lora?.rank ?? 1], own, true),
    ]),
  ];
}

function normCalls(
  ops: TrainOps,
  config: LlamaConfig,
  { precision, activations, maxTokens: T }: TrainSetup,
): Calls {
  const { activation, sum } = flowTypes(precision, activations);
  const { hiddenSize: D, headDim: E, headCount: H, keyValueHeadCount: G } = config;
  const [x, weight] = [shaped([T, D], activation), shaped([D], activation)];
  const qkv = shaped([T, (H + 2 * G) * E], activation);
  const pair = (dtype: DType) => ({ query: shaped([E], dtype), key: shaped([E], dtype) });
  const largest = Math.max(...flatLayout(config).blocks.map(({ size }) => size));
  return [
    () => ops.rmsNormBackward(x, shaped([D], sum), x, x, weight, config.normEps),
    ...(config.qkNorm
      ? [() => ops.qkNormBackward(qkv, pair(sum), qkv, pair(activation), { H, G, E }, config.normEps)]
      : []),
    () => ops.sumSquares(shaped([largest], sum)),
  ];
}

/** One document as long as the longest, and micro-batches full of documents of half its length, a quarter ... */
function attentionCalls(ops: TrainOps, config: LlamaConfig, setup: TrainSetup, memory: Arena): Calls {
  const { activation, sum } = flowTypes(setup.precision, setup.activations);
  const { headCount: H, keyValueHeadCount: G, headDim: E } = config;
  const { maxTokens, positions } = setup;
  const lengths: number[] = [];
  for (let length = Math.min(positions, maxTokens); length >= 1; length = Math.floor(length / 2))
    lengths.push(length);
  const list = memory.tensor([maxTokens + 1], "i32");
  return lengths.flatMap((length) => {
    const S = Math.floor(maxTokens / length);
    const T = S * length;
    const upload = () => {
      const starts = list.rows(S + 1);
      ops.device.upload(
        starts,
        Int32Array.from({ length: S + 1 }, (_, s) => s * length),
      );
      return { starts, forget: null, seed: 0 };
    };
    const [qkv, y] = [shaped([T, (H + 2 * G) * E], activation), shaped([T, H * E], activation)];
    const lse = shaped([T, H], sum);
    const scores = { window: config.windows[0] ?? 0, scale: 1 };
    return [
      () => ops.documentAttention(y, lse, qkv, upload(), { H, G, E }, scores),
      () => ops.documentAttentionBackward(qkv, y, { y, lse, qkv }, upload(), { H, G, E }, scores),
    ];
  });
}
