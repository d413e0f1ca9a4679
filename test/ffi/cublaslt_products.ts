/** Makes the products that its argument lists (JSON) on one device and prints, as JSON, who makes products there, and of each
 *  product its normalised error against the formula and its bits. A process of its own: the library reads its environment. */
import { type Pointer, ptr } from "bun:ffi";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { matmulCase } from "./cases.ts";
import { check, decode, encode, native, Random, Target, zeros } from "./target.ts";

export interface Product {
  /** y = x w^T; dx = dy w through a transposed packed matrix; dw += dy^T x. */
  kind: "forward" | "dx" | "weights";
  T: number;
  N: number;
  K: number;
  dtype: "f32" | "bf16";
  bias?: boolean;
  accumulate?: boolean;
}

export interface Report {
  gemm: string;
  products: { error: number; bits: string }[];
  /** Bytes of scratch that the device rehearsed for all of them together, and that it holds at the end. */
  rehearsed: number;
  held: number;
}

interface Made {
  actual: Float64Array;
  expected: Float64Array;
}

function make(target: Target, product: Product): Made {
  switch (product.kind) {
    case "forward":
      return forward(target, product);
    case "dx":
      return inputGradient(target, product);
    case "weights":
      return weightGradient(target, product);
    default:
      return product.kind satisfies never;
  }
}

function forward(target: Target, product: Product): Made {
  const prepared = matmulCase({ ...product, wtype: "bf16" }).prepare(target);
  prepared.call();
  target.fetch();
  const made = { actual: prepared.actual(), expected: prepared.expected() };
  prepared.release?.();
  return made;
}

function inputGradient(target: Target, { T, N, K, dtype }: Product): Made {
  const random = new Random(T + N + K);
  const [dy, w] = [encode(random.normals(T * N), dtype), encode(random.normals(N * K), "bf16")];
  const code = dtypeCode.bf16;
  const bytes = target.size((out) => native.koala_matmul_pack_bytes(target.device, out, K, N, code));
  const packed = target.allocate(bytes);
  check(native.koala_matmul_pack_transposed(target.device, packed, target.at(w), N, K, code, code));
  const dx = zeros(T * K, dtype);
  const at = target.at(dx);
  check(
    native.koala_matmul(target.device, at, target.at(dy), packed, null, T, K, N, 0, code, dtypeCode[dtype]),
  );
  target.fetch();
  check(native.koala_memory_free(target.device, packed, bytes));
  const [left, right] = [rounded(decode(dy, dtype)), decode(w, "bf16")];
  const expected = new Float64Array(T * K);
  for (let t = 0; t < T; t++)
    for (let n = 0; n < N; n++)
      for (let k = 0; k < K; k++) expected[t * K + k]! += left[t * N + n]! * right[n * K + k]!;
  return { actual: decode(dx, dtype), expected };
}

function weightGradient(target: Target, { T, N, K, dtype }: Product): Made {
  const random = new Random(T + N + K);
  const [dy, x] = [encode(random.normals(T * N), dtype), encode(random.normals(T * K), dtype)];
  const expected = random.normals(N * K);
  const dw = Float32Array.from(expected);
  const at = target.at(dw);
  check(
    native.koala_matmul_weight_gradient(
      target.device,
      at,
      target.at(dy),
      target.at(x),
      T,
      N,
      K,
      dtypeCode.bf16,
      dtypeCode[dtype],
    ),
  );
  target.fetch();
  const [left, right] = [rounded(decode(dy, dtype)), rounded(decode(x, dtype))];
  for (let t = 0; t < T; t++)
    for (let n = 0; n < N; n++)
      for (let k = 0; k < K; k++) expected[n * K + k]! += left[t * N + n]! * right[t * K + k]!;
  return { actual: Float64Array.from(dw), expected };
}

/** Ops that are rehearsed read nothing, and fail in a sentence of their own. */
function rehearse(target: Target, products: Product[]): number {
  check(native.koala_device_rehearse(target.device, 1));
  const [device, at, code] = [target.device, 64 as Pointer, dtypeCode.bf16];
  for (const { kind, T, N, K, dtype } of products) {
    const type = dtypeCode[dtype];
    if (kind === "forward") native.koala_matmul(device, at, at, at, null, T, N, K, 0, code, type);
    else if (kind === "dx") native.koala_matmul(device, at, at, at, null, T, K, N, 0, code, type);
    else native.koala_matmul_weight_gradient(device, at, at, at, T, N, K, code, type);
  }
  check(native.koala_device_rehearse(target.device, 0));
  return scratch(target)[1]!;
}

function scratch(target: Target): Float64Array {
  const bytes = new Float64Array(2);
  check(native.koala_device_scratch(target.device, ptr(bytes), 0));
  return bytes;
}

const rounded = (values: Float64Array): Float64Array => decode(encode(values, "bf16"), "bf16");

function error({ actual, expected }: Made): number {
  let [difference, size] = [0, 0];
  expected.forEach((want, i) => {
    difference += (actual[i]! - want) ** 2;
    size += want ** 2;
  });
  return difference / size;
}

function gemmOf(target: Target): string {
  const text = new Uint8Array(1024);
  check(native.koala_device_info(target.device, ptr(text), text.length));
  return JSON.parse(Buffer.from(text.subarray(0, text.indexOf(0))).toString()).gemm;
}

if (import.meta.main) {
  const target = Target.open();
  const wanted = JSON.parse(process.argv[2]!) as Product[];
  const rehearsed = rehearse(target, wanted);
  const products = wanted.map((product) => {
    const made = make(target, product);
    return { error: error(made), bits: Bun.hash(made.actual.buffer as ArrayBuffer).toString(16) };
  });
  const report: Report = { gemm: gemmOf(target), products, rehearsed, held: scratch(target)[0]! };
  target.close();
  console.log(JSON.stringify(report));
}
