/** A small transformer block written with Ops and TrainingOps alone: the slope of its loss along any parameter is the
 *  gradient that the backward ops give. Checks what the op tests cannot: that the wrappers pass their arguments right. */
import { afterAll, expect, test } from "bun:test";
import { buildNative } from "../../ffi/build.ts";
import { Arena } from "../../src/tensor/arena.ts";
import { Device } from "../../src/tensor/device.ts";
import { Ops, ShapeError } from "../../src/tensor/ops.ts";
import type { DType, PackedMatrix, Tensor } from "../../src/tensor/tensor.ts";
import { TrainingOps } from "../../src/tensor/training_ops.ts";

const device = Device.open(await buildNative(), { threads: 1 });
const arena = new Arena(device, "test", 8 << 20);
const [ops, training] = [new Ops(device), new TrainingOps(device)];
afterAll(() => {
  arena.close();
  device.close();
});

const [T, D, V, F] = [11, 12, 9, 10];
const heads = { H: 4, G: 2, E: 6 };
const width = (heads.H + 2 * heads.G) * heads.E;
const [eps, scores] = [1e-5, { window: 4, scale: 0.4 }];

const f64 = (...shape: number[]) => arena.tensor(shape, "f64");
function filled(values: number[], dtype: DType, shape = [values.length]): Tensor {
  const tensor = arena.tensor(shape, dtype);
  device.upload(
    tensor,
    dtype === "i32"
      ? Int32Array.from(values)
      : dtype === "f32"
        ? Float32Array.from(values)
        : Float64Array.from(values),
  );
  return tensor;
}
const read = (tensor: Tensor) => device.download(tensor) as Float64Array;
/** Fixed numbers without a pattern that a wrong index would keep. */
const wave = (n: number, seed: number) =>
  Array.from({ length: n }, (_, i) => Math.sin(i * 1.7 + seed * 0.9 + i * i * 0.01));

const tokens = Array.from({ length: T }, (_, t) => (t * 5 + 2) % V);
const batch = {
  tokens: filled(tokens, "i32"),
  order: filled(
    tokens.map((_, t) => t).sort((a, b) => tokens[a]! - tokens[b]! || a - b),
    "i32",
  ),
  targets: filled(
    tokens.map((_, t) => (t % 4 === 3 ? -1 : (t * 3) % V)),
    "i32",
  ),
  positions: filled(
    tokens.map((_, t) => t % 7),
    "i32",
  ),
  angles: filled(wave(7 * heads.E, 3), "f32", [7, heads.E / 2, 2]),
  documents: { starts: filled([0, 7, 11], "i32"), forget: filled([0.3, 0], "f32"), seed: -3 },
  weights: wave(T, 5),
};

const sizes = {
  table: [V, D],
  norm: [D],
  qkv: [width, D],
  bias: [width],
  queryNorm: [heads.E],
  keyNorm: [heads.E],
  out: [D, heads.H * heads.E],
  gateUp: [2 * F, D],
  down: [D, F],
} as const;
type Name = keyof typeof sizes;
const names = Object.keys(sizes) as Name[];
const parameters = Object.fromEntries(
  names.map((name, i) => {
    const shape = [...sizes[name]];
    return [
      name,
      filled(
        wave(
          shape.reduce((a, b) => a * b),
          i,
        ),
        "f64",
        shape,
      ),
    ];
  }),
) as Record<Name, Tensor>;
const gradients = Object.fromEntries(names.map((name) => [name, f64(...sizes[name])])) as Record<
  Name,
  Tensor
>;

const matrices = ["table", "qkv", "out", "gateUp", "down"] as const;
const packed = Object.fromEntries(
  matrices.map((name) => [name, arena.packed(sizes[name][0], sizes[name][1], "f64")]),
) as Record<Name, PackedMatrix>;
const transposed = Object.fromEntries(
  matrices.map((name) => [name, arena.packed(sizes[name][1], sizes[name][0], "f64")]),
) as Record<Name, PackedMatrix>;

const a = {
  x: f64(T, D),
  h: f64(T, D),
  raw: f64(T, width),
  normed: f64(T, width),
  qkv: f64(T, width),
  y: f64(T, heads.H * heads.E),
  lse: f64(T, heads.H),
  o: f64(T, D),
  dropped: f64(T, D),
  gateUp: f64(T, 2 * F),
  f: f64(T, F),
  last: f64(T, D),
  logits: f64(T, V),
  logprobs: f64(T),
  rowLse: f64(T),
};
const rowWeights = filled(batch.weights, "f64");
const copy = (to: Tensor, from: Tensor) => ops.cast(to, from);

/** Minus the weighted log-probabilities of the targets. */
function loss(): number {
  for (const name of matrices) device.pack(packed[name], parameters[name].data, 0, sizes[name][0], "f64");
  ops.embed(a.x, parameters.table, batch.tokens);
  ops.rmsNorm(a.h, a.x, parameters.norm, eps);
  ops.matmul(a.raw, a.h, packed.qkv, parameters.bias);
  copy(a.normed, a.raw);
  ops.qkNorm(a.normed, parameters.queryNorm, parameters.keyNorm, heads, eps);
  copy(a.qkv, a.normed);
  ops.rope(a.qkv, batch.angles, batch.positions, heads);
  training.documentAttention(a.y, a.lse, a.qkv, batch.documents, heads, scores);
  ops.matmul(a.o, a.y, packed.out);
  training.dropout(a.dropped, a.o, 100, 9, 0.25);
  training.axpby(a.dropped, a.x, 0.5, 1);
  ops.matmul(a.gateUp, a.dropped, packed.gateUp);
  ops.siluMul(a.f, a.gateUp);
  ops.matmul(a.last, a.f, packed.down);
  ops.matmul(a.logits, a.last, packed.table);
  training.crossEntropy(a.logprobs, a.rowLse, a.logits, batch.targets);
  return read(a.logprobs).reduce((sum, logprob, t) => sum - logprob * batch.weights[t]!, 0);
}

function backward(): void {
  for (const name of names) training.axpby(gradients[name], gradients[name], 0, 0);
  for (const name of matrices) training.packTransposed(transposed[name], parameters[name]);
  const [dlast, df, dgateUp, ddropped, dx, dout] = [
    f64(T, D),
    f64(T, F),
    f64(T, 2 * F),
    f64(T, D),
    f64(T, D),
    f64(T, D),
  ];
  const [dy, dqkv, dh] = [f64(T, heads.H * heads.E), f64(T, width), f64(T, D)];
  training.crossEntropyBackward(a.logits, a.rowLse, rowWeights, batch.targets);
  training.matmulWeightGradient(gradients.table, a.logits, a.last, "f64");
  ops.matmul(dlast, a.logits, transposed.table);
  training.matmulWeightGradient(gradients.down, dlast, a.f, "f64");
  ops.matmul(df, dlast, transposed.down);
  training.siluMulBackward(dgateUp, df, a.gateUp);
  training.matmulWeightGradient(gradients.gateUp, dgateUp, a.dropped, "f64");
  ops.matmul(ddropped, dgateUp, transposed.gateUp);
  training.axpby(dx, ddropped, 0.5, 0);
  training.dropout(dout, ddropped, 100, 9, 0.25);
  training.matmulWeightGradient(gradients.out, dout, a.y, "f64");
  ops.matmul(dy, dout, transposed.out);
  training.documentAttentionBackward(dqkv, dy, a, batch.documents, heads, scores);
  training.ropeBackward(dqkv, batch.angles, batch.positions, heads);
  training.qkNormBackward(
    dqkv,
    { query: gradients.queryNorm, key: gradients.keyNorm },
    a.raw,
    { query: parameters.queryNorm, key: parameters.keyNorm },
    heads,
    eps,
  );
  training.matmulWeightGradient(gradients.qkv, dqkv, a.h, "f64");
  training.biasGradient(gradients.bias, dqkv);
  ops.matmul(dh, dqkv, transposed.qkv);
  training.rmsNormBackward(dx, gradients.norm, dh, a.x, parameters.norm, eps, true);
  training.embedBackward(gradients.table, dx, batch.tokens, batch.order);
}

test("the slope of a block's loss along each parameter is the gradient of the backward ops", () => {
  loss();
  backward();
  const h = 1e-4;
  for (const [i, name] of names.entries()) {
    const start = read(parameters[name]);
    const gradient = read(gradients[name]);
    const direction = wave(start.length, 20 + i);
    const at = (step: number) => {
      device.upload(
        parameters[name],
        start.map((value, n) => value + step * direction[n]!),
      );
      return loss();
    };
    const slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
    device.upload(parameters[name], start);
    const expected = direction.reduce((sum, part, n) => sum + part * gradient[n]!, 0);
    expect({ name, agrees: Math.abs(slope - expected) < 1e-8 * Math.max(1, Math.abs(expected)) }).toEqual({
      name,
      agrees: true,
    });
    expect(Math.abs(expected)).toBeGreaterThan(1e-4);
  }
});

test("AdamW steps lower the loss, with plain and with split weights, and the norm of the gradient is their sum", () => {
  const start = loss();
  backward();
  const squares = names.reduce((sum, name) => sum + training.sumSquares(gradients[name]), 0);
  const expected = names.reduce(
    (sum, name) => sum + read(gradients[name]).reduce((part, g) => part + g * g, 0),
    0,
  );
  expect(Math.abs(squares / expected - 1)).toBeLessThan(1e-12);
  const step = { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0, scale: 1, step: 1, seed: 1 };
  const n = parameters.out.size;
  const master = arena.tensor([n], "f32");
  const split = {
    w: arena.tensor([n], "bf16"),
    low: arena.tensor([n], "bf16"),
    m: arena.tensor([n], "bf16"),
    v: arena.tensor([n], "bf16"),
  };
  const g = arena.tensor([n], "f32");
  const flat = parameters.out.reshape([n]);
  ops.cast(master, flat);
  training.masterSplit(split.w, split.low, master);
  ops.cast(g, gradients.out.reshape([n]));
  training.adamw(split, g, step, 77);
  training.masterJoin(master, split.w, split.low);
  ops.cast(flat, master);
  const second = loss();
  expect(second).toBeLessThan(start);
  for (const name of names) {
    if (name === "out") continue;
    const [m, v] = [f64(...sizes[name]), f64(...sizes[name])];
    training.adamw({ w: parameters[name], low: null, m, v }, gradients[name], step, 0);
  }
  expect(loss()).toBeLessThan(second);
});

test("wrong shapes and types are named before native code sees them", () => {
  expect(() => training.matmulWeightGradient(gradients.out, a.x, a.f, "f64")).toThrow(ShapeError);
  expect(() => training.packTransposed(packed.qkv, parameters.qkv)).toThrow(
    /rows of packed f64\[48,12\] is 48, expected 12/,
  );
  expect(() => training.biasGradient(arena.tensor([D], "f32"), a.x)).toThrow(
    /f32\[12\] beside f64\[11,12\], expected f64/,
  );
  expect(() => training.documentAttention(a.y, a.rowLse, a.qkv, batch.documents, heads, scores)).toThrow(
    /lse is 11, expected 44/,
  );
  expect(() =>
    training.documentAttention(a.y, a.lse, a.qkv, { ...batch.documents, forget: rowWeights }, heads, scores),
  ).toThrow(/forget is 11, expected 2/);
  expect(() => training.masterSplit(a.x, a.x, a.x)).toThrow(/expected bf16 and f32/);
  expect(() => training.axpby(a.x, a.f, 1, 1)).toThrow(/output is 132, expected 110/);
});
