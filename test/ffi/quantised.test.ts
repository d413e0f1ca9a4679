/** Matrices of int8 and int4: their blocks are those of ggml's rules, and their products are bit for bit those of the bf16
 *  matrix that they stand for, at any number of rows. */
import { afterAll, describe, expect, test } from "bun:test";
import type { Pointer } from "bun:ffi";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { dequantised, quantise, roundToF16, type QuantType } from "./quantise.ts";
import {
  availableIsas,
  check,
  decode,
  encode,
  native,
  onGpu,
  ptr,
  Random,
  Target,
  zeros,
  type Elements,
  type FloatType,
} from "./target.ts";

const types = ["q8", "q4"] as const;
const bits = (values: Elements) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");

// What ggml's own quantize_row_q8_0_ref and quantize_row_q4_0_ref (llama.cpp's libggml-base 0.25.1) made of these 64 numbers:
// a scale in f16 and 32 elements; of q4, element i + 16 is the high half of byte i.
const row = Float32Array.from(
  { length: 64 },
  (_, i) => (((i * 37 + 11) % 64) - 31) * (i < 32 ? 0.0137 : -2.5),
);
const byGgml = {
  q8: "d91aae46d76f009129ba52e37b0c9e35c75ef08119aa42d36bfc8d25b64edf77089a0a39d03ca91481ec57c4309d0873e04bb92491fc67d440ad1885f05bc834a10c77e4",
  q4: "cc2a730ca53fc851fb841da63fd962fb942e0049158cf359c037ae047be259bf269df46a",
};
test("the rules as they are written here make ggml's blocks, byte for byte", () => {
  for (const wtype of types) {
    const [bytes, size] = [Buffer.from(byGgml[wtype], "hex"), wtype === "q8" ? 34 : 18];
    const blocks = [0, 1].map((b) => bytes.subarray(b * size, (b + 1) * size));
    const { scales, q } = quantise(row, wtype);
    expect(Array.from(scales)).toEqual(blocks.map((block) => f16(block.readUInt16LE(0))));
    const elements = blocks.flatMap((block) =>
      Array.from({ length: 32 }, (_, i) =>
        wtype === "q8" ? block.readInt8(2 + i) : ((block[2 + (i % 16)]! >> (i < 16 ? 0 : 4)) & 15) - 8,
      ),
    );
    expect(Array.from(q)).toEqual(elements);
  }
});

for (const isa of availableIsas())
  describe(`int8 and int4 on ${isa}`, () => {
    const [target, alone] = [Target.open({ isa, threads: 2 }), Target.open({ isa, threads: 1 })];
    afterAll(() => [target, alone].forEach((each) => each.close()));

    for (const wtype of types)
      for (const stype of ["f32", "bf16", "f16", "f64"] as const)
        test(`rows of ${stype} become the blocks of ${wtype} that ggml's rules say, whole or in pieces`, () => {
          for (const [N, K] of [
            [1, 32],
            [7, 96],
            [45, 64],
            [70, 288],
          ] as const) {
            const source = encode(new Random(N + K).normals(N * K), stype);
            const want = quantise(decode(source, stype), wtype);
            for (const cut of [0, 1, 17, 33]) {
              const pieces = cut > 0 && cut < N ? [0, cut, N] : [0, N];
              const held = unpack(target, source, stype, wtype, N, K, pieces);
              expect(held.q).toEqual(want.q);
              expect(held.scales).toEqual(want.scales);
            }
          }
        });

    test("blocks of zeros, of equal and of tiny numbers, ties and halves follow the rules too", () => {
      const block = (value: (i: number) => number) => Array.from({ length: 32 }, (_, i) => value(i));
      const rows = [
        block(() => 0),
        block(() => -3),
        block((i) => (i % 2 ? 1 : -1)),
        block((i) => (i % 2 ? -1 : 1)),
        block((i) => 127 - i * 8.5), // halves between integers, in q8
        block((i) => -8 + i / 2),
        block((i) => i * 2 ** -26), // an f16 scale below 2^-14
        block((i) => i * 2 ** -140),
        block((i) => (i - 20) * 1000),
      ];
      for (const wtype of types) {
        const source = Float32Array.from(rows.flat());
        const want = quantise(source, wtype);
        const held = unpack(target, source, "f32", wtype, rows.length, 32, [0, rows.length]);
        expect(held.scales).toEqual(want.scales);
        held.scales.forEach((scale, row) => {
          if (scale !== 0)
            expect(held.q.slice(row * 32, row * 32 + 32)).toEqual(want.q.slice(row * 32, row * 32 + 32));
        });
      }
    });

    for (const wtype of types)
      test(`the ${wtype} product is that of the bf16 matrix bf16(q d), bit for bit, at every number of rows and threads`, () => {
        for (const [N, K, stype] of [
          [45, 32, "f32"],
          [130, 416, "bf16"],
          [33, onGpu ? 544 : 3424, "f32"],
        ] as const) {
          const random = new Random(N + K);
          const weight = encode(random.normals(N * K), stype);
          const meant = encode(dequantised(decode(weight, stype), wtype), "bf16");
          for (const dtype of ["f32", "bf16"] as const) {
            const [x, bias] = [encode(random.normals(200 * K), dtype), encode(random.normals(N), dtype)];
            const want = multiply(target, x, meant, "bf16", "bf16", 200, N, K, dtype, bias);
            for (const T of [1, 2, ...(onGpu ? [] : [3, 4, 5, 6, 8]), 7, 16, 17, 32, 33, 64, 65, 200]) {
              const first = 200 - T;
              const got = multiply(
                T % 2 ? alone : target,
                x.slice(first * K),
                weight,
                stype,
                wtype,
                T,
                N,
                K,
                dtype,
                bias,
              );
              expect({ N, dtype, T, same: bits(got) === bits(want.slice(first * N)) }).toEqual({
                N,
                dtype,
                T,
                same: true,
              });
            }
          }
        }
      });

    test("a NaN, an infinity or a scale too large for f16 makes its rows NaN, and no others", () => {
      for (const wtype of types)
        for (const odd of [Number.NaN, Number.POSITIVE_INFINITY, 1e30]) {
          const weight = encode(new Random(5).normals(40 * 64), "f32");
          weight[3 * 64 + 40] = odd;
          const y = multiply(
            target,
            encode(new Float64Array(64).fill(1), "f32"),
            weight,
            "f32",
            wtype,
            1,
            40,
            64,
            "f32",
          );
          expect(Array.from(y, Number.isNaN)).toEqual(Array.from({ length: 40 }, (_, n) => n === 3));
        }
    });
  });

const target = Target.open({ threads: 1 });
afterAll(() => target.close());
const x = target.at(new Float32Array(4096));
const none = null as unknown as Pointer;
const { q8, q4, f32, f64 } = dtypeCode;

const wrong: Record<string, [() => number, string]> = {
  "a matrix whose rows are no whole blocks, sized": [
    () => native.koala_matmul_pack_bytes(target.device, x, 8, 40, q8),
    "koala_matmul_pack_bytes: K is 40; q8 has a scale for every 32 elements of a row, so K must be a multiple of 32.",
  ],
  packed: [
    () => native.koala_matmul_pack(target.device, x, x, 8, 33, 0, 8, q4, f32),
    "koala_matmul_pack: K is 33; q4 has a scale for every 32 elements of a row, so K must be a multiple of 32.",
  ],
  multiplied: [
    () => native.koala_matmul(target.device, x, x, x, none, 1, 8, 16, 0, q4, f32),
    "koala_matmul: K is 16; q4 has a scale for every 32 elements of a row, so K must be a multiple of 32.",
  ],
  "float64 activations": [
    () => native.koala_matmul(target.device, x, x, x, none, 1, 8, 32, 0, q8, f64),
    "koala_matmul: q8 weights need f32 or bf16 activations, and these are f64.",
  ],
  "a transposed matrix": [
    () => native.koala_matmul_pack_transposed(target.device, x, x, 32, 32, q8, f32),
    "koala_matmul_pack_transposed: wtype is 16 (q8); f32, bf16 and f64 are supported.",
  ],
};
for (const [name, [call, sentence]] of Object.entries(wrong))
  test(`${name}: refused in a sentence`, () => {
    expect(call()).toBe(-1);
    expect(String(native.koala_last_error())).toBe(sentence);
  });

test("q8 takes 34 bytes for 32 elements, q4 18, and what pads rows", () => {
  const bytes = (N: number, type: number) =>
    target.size((out) => native.koala_matmul_pack_bytes(target.device, out, N, 4096, type));
  for (const N of [64, 4096]) {
    expect(bytes(N, q8)).toBe((N * 4096 * 34) / 32);
    expect(bytes(N, q4)).toBe((N * 4096 * 18) / 32);
  }
});

function multiply(
  target: Target,
  x: Elements,
  weight: Elements,
  stype: FloatType,
  wtype: "bf16" | QuantType,
  T: number,
  N: number,
  K: number,
  dtype: FloatType,
  bias: Elements | null = null,
): Elements {
  const y = zeros(T * N, dtype);
  const packed = target.pack(weight, stype, wtype, N, K);
  const [py, px, pb] = [target.at(y), target.at(x), bias ? target.at(bias) : null];
  check(
    native.koala_matmul(
      target.device,
      py,
      px,
      packed.copies[0]!,
      pb,
      T,
      N,
      K,
      0,
      dtypeCode[wtype],
      dtypeCode[dtype],
    ),
  );
  packed.release();
  return y;
}

/** Packs rows in pieces, and reads the blocks back from where quantised.h (on GPUs quantised.cuh) says they lie. */
function unpack(
  target: Target,
  source: Elements,
  stype: FloatType,
  wtype: QuantType,
  N: number,
  K: number,
  cuts: number[],
): { scales: Float64Array; q: Int8Array } {
  const bytes = target.size((out) =>
    native.koala_matmul_pack_bytes(target.device, out, N, K, dtypeCode[wtype]),
  );
  const memory = target.allocate(bytes);
  for (const [i, from] of cuts.slice(0, -1).entries()) {
    const [rows, part] = [cuts[i + 1]! - from, source.slice(from * K, cuts[i + 1]! * K)];
    const codes = [dtypeCode[wtype], dtypeCode[stype]] as const;
    check(native.koala_matmul_pack(target.device, memory, ptr(part), N, K, from, rows, ...codes));
  }
  const packed = new Uint8Array(bytes);
  check(native.koala_memory_copy(target.device, ptr(packed), memory, bytes));
  check(native.koala_memory_free(target.device, memory, bytes));
  const held = { scales: new Float64Array((N * K) / 32), q: new Int8Array(N * K) };
  const at = onGpu ? gpuPlace : cpuPlace(target.info().isa === "avx512bf16");
  for (let n = 0; n < N; n++)
    for (let k = 0; k < K; k++) {
      const { scale, byte, shift } = at(n, k, N, K, wtype);
      const whole = packed[byte]!;
      held.q[n * K + k] =
        wtype === "q4" ? ((whole >> shift) & 15) - 8 : onGpu ? whole - 128 : (whole << 24) >> 24;
      held.scales[(n * K + k) >> 5] = f16(packed[scale]! | (packed[scale + 1]! << 8));
    }
  return held;
}

/** Where processors multiply bf16 pairs, the elements of a row stand in pairs of k; elsewhere those of a k stand together. */
const cpuPlace = (paired: boolean) => (n: number, k: number, _: number, K: number, wtype: QuantType) => {
  const element = paired ? (n % 32) * 2 + (k % 2) : (k % 2) * 32 + (n % 32);
  const size = wtype === "q8" ? 1088 : 576;
  const block = (Math.floor(n / 32) * (K / 32) + Math.floor(k / 32)) * size;
  const pair = Math.floor((k % 32) / 2);
  const byte = block + 64 + (wtype === "q8" ? pair * 64 + element : pair * 32 + (element % 32));
  return { scale: block + (n % 32) * 2, byte, shift: element < 32 ? 0 : 4 };
};

function gpuPlace(n: number, k: number, N: number, K: number, wtype: QuantType) {
  const [block, r, odd] = [Math.floor(k / 32), k % 32, k % 2];
  const [thread, pair] = [Math.floor((r % 8) / 2), Math.floor(r / 8)];
  const [per, all] = wtype === "q8" ? [1, N * K] : [0.5, (N * K) / 2];
  const scale = all + (block * Math.ceil(N / 8) * 8 + n) * 2;
  const start = (n * K + block * 32) * per;
  if (wtype === "q8") return { scale, byte: start + thread * 8 + pair * 2 + odd, shift: 0 };
  const bit = 4 * pair + 16 * odd;
  return { scale, byte: start + thread * 4 + (bit >> 3), shift: bit & 7 };
}

function f16(code: number): number {
  const exponent = (code >> 10) & 31;
  const size = exponent ? (1 + (code & 1023) / 1024) * 2 ** (exponent - 15) : (code & 1023) * 2 ** -24;
  return roundToF16(code & 0x8000 ? -size : size);
}
