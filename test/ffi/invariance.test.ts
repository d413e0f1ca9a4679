/** A row's result depends on its own inputs only, bit for bit: not on the rows beside it, on how a prompt was cut, on
 *  threads, or on what the memory held before. */
import { afterAll, describe, expect, test } from "bun:test";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { AttentionRun, type AttentionShape } from "./attention_cases.ts";
import {
  availableIsas,
  check,
  cpuOnly,
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

const bits = (values: Elements) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("hex");

for (const isa of availableIsas()) {
  describe(`results on ${isa}`, () => {
    const targets = [1, 2].map((threads) => Target.open({ isa, threads, ownProducts: true }));
    afterAll(() => targets.forEach((target) => target.close()));

    for (const [wtype, dtype] of [
      ["bf16", "f32"],
      ["f32", "f32"],
      ["bf16", "bf16"],
      ["f64", "f64"],
    ] as const) {
      for (const [N, K] of [
        [45, 33],
        [200, 256],
        [33, 3400],
      ] as const) {
        test(`a row of a matrix product [${N}, ${K}] ${dtype} x ${wtype} is the same alone and among 13, 64 or 200, on 1 and 2 threads`, () => {
          const random = new Random(N + K);
          const weight = encode(random.normals(N * K), wtype);
          const x = encode(random.normals(200 * K), dtype);
          const whole = multiply(targets[0]!, x, weight, 200, N, K, wtype, dtype);
          for (const target of targets) {
            for (const T of [1, 2, 13, 64]) {
              for (const first of [0, 50, 200 - T]) {
                const part = multiply(
                  target,
                  x.slice(first * K, (first + T) * K),
                  weight,
                  T,
                  N,
                  K,
                  wtype,
                  dtype,
                );
                expect(bits(part)).toBe(bits(whole.slice(first * N, (first + T) * N)));
              }
            }
          }
        });
      }
    }

    for (const [ctype, dtype] of [
      ["bf16", "f32"],
      ["f32", "f32"],
      ["bf16", "bf16"],
      ["f8", "bf16"],
      ["f64", "f64"],
    ] as const) {
      for (const window of [0, 45, 700]) {
        const short = [
          { H: 6, G: 2, E: 16, L: 101 },
          { H: 2, G: 2, E: 40, L: 70 },
          ...(ctype === "bf16" || ctype === "f8" ? [{ H: 2, G: 1, E: 64, L: 180 }] : []),
        ];
        // Windows that span blocks of keys, with rows whose tile-mates see an earlier panel than they do (988 and 985).
        const long = [{ H: 1, G: 1, E: 8, L: onGpu ? 330 : window === 45 ? 600 : 1010 }];
        for (const { H, G, E, L } of window === 700 ? long : [...short, ...long]) {
          const absent = onGpu && dtype === "f64";
          test.skipIf(absent)(
            `${L} tokens attend the same in one piece, in chunks and one by one (H=${H} G=${G} E=${E} window ${window} ${dtype} cache ${ctype})${absent ? cpuOnly : ""}`,
            () => {
              const shape = { H, G, E, P: 32, window, ctype, dtype } as const;
              const tokens = encode(new Random(L).normals(L * (H + 2 * G) * E), dtype);
              const whole = attend(targets[0]!, [{ queries: L, length: L }], shape, tokens);
              const row = H * E;
              for (const [queries, end] of [
                [1, 1],
                [1, 2],
                [3, 33],
                [9, 64],
                [1, 65],
                [1, 530],
                [1, 989],
                [8, L - 2],
                [1, L - 1],
                [L - 40, L],
                [1, L],
              ] as const) {
                if (end > L) continue;
                for (const target of targets) {
                  const alone = attend(target, [{ queries, length: end }], { ...shape, P: 96 }, tokens);
                  expect(bits(alone)).toBe(bits(whole.slice((end - queries) * row, end * row)));
                }
                const beside = attend(
                  targets[1]!,
                  [
                    { queries, length: end },
                    { queries: 5, length: 77 },
                    { queries: 1, length: 3 },
                  ],
                  shape,
                  tokens,
                );
                expect(bits(beside.slice(0, queries * row))).toBe(
                  bits(whole.slice((end - queries) * row, end * row)),
                );
              }
            },
          );
        }
      }
    }

    test.each(["f32", "bf16", "f64"] as const)(
      "a sum and its norm are those of axpby and rms_norm, bit for bit, alone and among others, in %s",
      (dtype) => {
        const [code, eps] = [dtypeCode[dtype], 1e-5];
        for (const [T, D] of [
          [40, 1024],
          [7, 77],
        ] as const) {
          const random = new Random(D);
          const [x, delta] = [encode(random.normals(T * D, 3), dtype), encode(random.normals(T * D), dtype)];
          const weight = encode(random.normals(D), dtype);
          for (const target of targets) {
            const { device } = target;
            const apart = { x: x.slice(), y: zeros(T * D, dtype) };
            const [px, py, pw] = [target.at(apart.x), target.at(apart.y), target.at(weight)];
            check(native.koala_axpby(device, px, target.at(delta), T * D, 1, 1, code));
            check(native.koala_rms_norm(device, py, px, pw, T, D, eps, code));
            for (const [from, n] of [
              [0, T],
              [3, 1],
              [T - 2, 2],
            ] as const) {
              const part = (all: Elements) => all.slice(from * D, (from + n) * D);
              const [sum, y] = [part(x), zeros(n * D, dtype)];
              const [ps, pn] = [target.at(sum), target.at(y)];
              check(native.koala_add_rms_norm(device, pn, ps, target.at(part(delta)), pw, n, D, eps, code));
              expect(bits(sum)).toBe(bits(part(apart.x)));
              expect(bits(y)).toBe(bits(part(apart.y)));
            }
          }
        }
      },
    );

    test("norms, rope and silu of a row are the same alone and among others", () => {
      const [T, D, H, G, E] = [70, 1000, 3, 1, 200];
      const random = new Random(3);
      const [x, weight] = [encode(random.normals(T * D), "f32"), encode(random.normals(D), "f32")];
      const table = encode(random.normals(T * E), "f32");
      const positions = Int32Array.from({ length: T }, (_, t) => (t * 7) % T);
      for (const target of targets) {
        const device = target.device;
        const ops: Record<string, (rows: Elements, from: number, n: number) => Elements> = {
          rms_norm(rows, _, n) {
            const y = zeros(n * D, "f32");
            check(native.koala_rms_norm(device, ptr(y), ptr(rows), ptr(weight), n, D, 1e-5, dtypeCode.f32));
            return y;
          },
          qk_norm(rows, _, n) {
            check(
              native.koala_qk_norm(
                device,
                ptr(rows),
                ptr(weight),
                ptr(weight),
                n,
                H,
                G,
                E,
                1e-5,
                dtypeCode.f32,
              ),
            );
            return rows;
          },
          rope(rows, from, n) {
            check(
              native.koala_rope(
                device,
                ptr(rows),
                ptr(table),
                ptr(positions.slice(from, from + n)),
                n,
                H,
                G,
                E,
                dtypeCode.f32,
              ),
            );
            return rows;
          },
          silu_mul(rows, _, n) {
            const y = zeros((n * D) / 2, "f32");
            check(native.koala_silu_mul(device, ptr(y), ptr(rows), n, D / 2, dtypeCode.f32));
            return y;
          },
        };
        for (const [name, run] of Object.entries(ops)) {
          const whole = run(x.slice(), 0, T);
          const width = whole.length / T;
          for (const [from, n] of [
            [0, 1],
            [13, 1],
            [5, 9],
            [T - 1, 1],
          ] as const) {
            expect({ name, bits: bits(run(x.slice(from * D, (from + n) * D), from, n)) }).toEqual({
              name,
              bits: bits(whole.slice(from * width, (from + n) * width)),
            });
          }
        }
      }
    });
  });
}

function multiply(
  target: Target,
  x: Elements,
  weight: Elements,
  T: number,
  N: number,
  K: number,
  wtype: FloatType,
  dtype: FloatType,
): Elements {
  const y = zeros(T * N, dtype);
  const packed = target.pack(weight, wtype, wtype, N, K);
  check(
    native.koala_matmul(
      target.device,
      ptr(y),
      ptr(x),
      packed.copies[0]!,
      null,
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

/** The first sequence consists of the first of `tokens`. */
function attend(
  target: Target,
  sequences: AttentionShape["sequences"],
  shape: Omit<AttentionShape, "sequences">,
  tokens: Elements,
): Elements {
  const run = new AttentionRun(target, { ...shape, sequences }, new Random(5), tokens);
  run.attend();
  run.release();
  return run.y;
}
