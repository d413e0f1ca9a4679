/** The ops that take a model's time, at its real dimensions: error against float64, and share of the measured limit.
 *  usage: bun bench/gpu/ops.ts [--device cuda:0] [--shape llama-7b] [--tokens 1,32,2048] [--context 1024]
 *  Large outputs are compared at some places only; small sizes and all other ops are compared whole in test/ffi (tests.ts). */
import { parseArgs } from "node:util";
import { configOf, openBenchDevice, put, time } from "./bench_device.ts";
import { attentionOp, matmulOp, type OpCase, rmsNormOp, siluMulOp } from "./op_cases.ts";
import { OpMemory } from "./op_memory.ts";

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    shape: { type: "string", default: "llama-7b" },
    tokens: { type: "string", default: "1,32,2048" },
    context: { type: "string", default: "1024" },
    repeat: { type: "string", default: "11" },
  },
});

/** Who multiplies, where that was asked for: cublaslt or own. */
const products = process.env.KOALA_GEMM ? `, products by ${process.env.KOALA_GEMM}` : "";

/** Calls are timed in blocks of about so long. */
const blockSeconds = 0.003;
const callsMost = 100;

/** Largest relative L2 error, by the type that results are rounded to. */
const errorBar = { f32: 1e-5, bf16: 1e-2 } as const;

const { device, rates } = openBenchDevice(values.device);
const config = configOf(values.shape, Number(values.context));
const { hiddenSize: D, intermediateSize: F, headCount: H, keyValueHeadCount: G, headDim: E } = config;
const context = Number(values.context);

for (const dtype of ["f32", "bf16"] as const) {
  for (const T of values.tokens.split(",").map(Number)) {
    run((memory) => matmulOp(memory, { T, N: (H + 2 * G) * E, K: D, dtype }));
    run((memory) => matmulOp(memory, { T, N: D, K: F, dtype }));
    run((memory) => rmsNormOp(memory, { T, D, dtype }));
    run((memory) => siluMulOp(memory, { T, F, dtype }));
  }
  for (const S of [1, 8]) run((memory) => attentionOp(memory, { S, queries: 1, context, H, G, E, dtype }));
  run((memory) => attentionOp(memory, { S: 1, queries: context, context, H, G, E, dtype }));
}
device.close();

function run(make: (memory: OpMemory) => OpCase): void {
  const memory = new OpMemory(device);
  const op = make(memory);
  // Several calls before the read-back that ends the clock: it takes as long as a small op.
  const once = time(() => (op.call(), memory.wait()), { repeat: 1, warm: 1 }).median;
  const together = Math.min(Math.ceil(blockSeconds / once), callsMost);
  const block = () => {
    for (let i = 0; i < together; i++) op.call();
    memory.wait();
  };
  const seconds = time(block, { repeat: Number(values.repeat), warm: 1 }).median / together;
  const limit = Math.max(op.bytes / rates.bandwidth, op.flops / rates.bfloat16);
  const error = relativeError(op.actual(), op.expected());
  memory.close();
  put({
    step: "ops",
    what: `${op.name}${products}, error`,
    value: error,
    unit: "rel. L2",
    bar: { most: errorBar[op.dtype] },
  });
  put({
    step: "ops",
    what: `${op.name}${products}, calls`,
    value: 1 / seconds,
    unit: "1/s",
    limit: 1 / limit,
  });
}

function relativeError(actual: number[], expected: number[]): number {
  let [difference, size] = [0, 0];
  expected.forEach((want, i) => {
    difference += ((actual[i] as number) - want) ** 2;
    size += want ** 2;
  });
  return Math.sqrt(difference / size);
}
