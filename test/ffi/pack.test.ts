/** Packed matrices hold exactly the elements that tile.h (on GPUs packed.cuh) says, at any size and packed in any pieces. */
import { afterAll, describe, expect, test } from "bun:test";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import {
  availableIsas,
  check,
  encode,
  native,
  onGpu,
  ptr,
  Random,
  Target,
  type Elements,
  type FloatType,
} from "./target.ts";

const panel = 32;

/** Rows of a multiple of 16 bytes, zeros at their ends. */
function gpuFormula(rows: Elements, N: number, K: number, wtype: FloatType): Elements {
  const unit = wtype === "bf16" ? 8 : 4;
  const stride = Math.ceil(K / unit) * unit;
  const out = wtype === "bf16" ? new Uint16Array(N * stride) : new Float32Array(N * stride);
  for (let n = 0; n < N; n++) out.set(rows.subarray(n * K, (n + 1) * K), n * stride);
  return out;
}

/** Bits of each element of `rows` [N, K] as `wtype` holds them; what no row fills stays `empty`. */
function packedFormula(rows: Elements, N: number, K: number, wtype: FloatType, empty: number): Elements {
  if (onGpu) return gpuFormula(rows, N, K, wtype);
  const depth = wtype === "bf16" ? (K + 1) & ~1 : K;
  const size = Math.ceil(N / panel) * panel * depth;
  const out = wtype === "bf16" ? new Uint16Array(size) : new Float32Array(size);
  new Uint8Array(out.buffer).fill(empty);
  for (let n = 0; n < N; n++)
    for (let k = 0; k < K; k++) {
      const first = Math.floor(n / panel) * panel * depth;
      const column = n % panel;
      const place = wtype === "bf16" ? (k >> 1) * 2 * panel + column * 2 + (k & 1) : k * panel + column;
      out[first + place] = rows[n * K + k]!;
    }
  return out;
}

for (const isa of availableIsas())
  describe(`packing on ${isa}`, () => {
    const target = Target.open({ isa, threads: 2 });
    afterAll(() => target.close());
    for (const [stype, wtype] of [
      ["f32", "bf16"],
      ["bf16", "bf16"],
      ["f16", "bf16"],
      ["f64", "bf16"],
      ["f32", "f32"],
      ["bf16", "f32"],
    ] as const)
      test(`rows of ${stype} become panels of ${wtype}, whole or in pieces that end inside a panel`, () => {
        for (const [N, K] of [
          [1, 1],
          [7, 5],
          [33, 31],
          [64, 64],
          [70, 97],
          [101, 130],
        ] as const) {
          // Small multiples of 1/64 are exact in f16 and bf16; + 0 makes -0 a 0.
          const exact = stype !== "f32" && stype !== "f64";
          const numbers = new Random(N + K)
            .normals(N * K)
            .map((x) => (exact ? Math.round(x * 16) / 64 + 0 : x));
          const source = encode(Float64Array.from(numbers), stype);
          const held = encode(
            stype === "f32" ? Float64Array.from(source) : Float64Array.from(numbers),
            wtype,
          );
          const want = packedFormula(held, N, K, wtype, 0xab);
          for (const cut of [0, 1, 17, 50]) {
            const packed = new Uint8Array(want.byteLength).fill(0xab);
            const pieces = cut > 0 && cut < N ? [[0, cut] as const, [cut, N] as const] : [[0, N] as const];
            for (const [from, to] of pieces)
              check(
                native.koala_matmul_pack(
                  target.device,
                  ptr(packed),
                  target.at(source.slice(from * K, to * K)),
                  N,
                  K,
                  from,
                  to - from,
                  dtypeCode[wtype],
                  dtypeCode[stype],
                ),
              );
            expect(Buffer.from(packed).equals(Buffer.from(want.buffer))).toBe(true);
          }
        }
      });
  });

test("copies too long for the caches are exact at any address", () => {
  const target = Target.open({ threads: 2 });
  const bytes = (3 << 20) + 77;
  const from = Uint8Array.from({ length: bytes + 5 }, (_, i) => (i * 2654435761) >>> 24);
  for (const shift of [0, 1, 5]) {
    const to = new Uint8Array(bytes + 32);
    check(native.koala_memory_copy(target.device, ptr(to, 16 - shift), ptr(from, shift), bytes));
    expect(
      Buffer.from(to.subarray(16 - shift, 16 - shift + bytes)).equals(from.subarray(shift, shift + bytes)),
    ).toBe(true);
    expect([to[15 - shift], to[16 - shift + bytes]]).toEqual([0, 0]);
  }
  target.close();
});
