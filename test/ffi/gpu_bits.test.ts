/** Ops whose results are the same bits on the CPU and on a GPU: a run may move between them. On the emulator, or with
 *  KOALA_TEST_LIBRARY=cuda on a GPU. */
import { describe, expect, test } from "bun:test";
import type { Pointer } from "bun:ffi";
import { buildNative } from "../../ffi/build.ts";
import { buildEmulator } from "../../ffi/build_gpu.ts";
import { libraryPath } from "../../src/tensor/library.ts";
import { loadNative, type Native } from "../../src/tensor/native.ts";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { mirrored } from "./mirrors.ts";
import { encode, native, onGpu, ptr, Random } from "./target.ts";

const minutes = 60_000;

interface Backend {
  native: Native;
  device: Pointer;
}

function open(native: Native): Backend {
  const out = new BigUint64Array(1);
  if (native.koala_device_open(ptr(out), 0, 1) !== 0) throw new Error(String(native.koala_last_error()));
  return { native, device: Number(out[0]) as Pointer };
}

let opened: { cpu: Backend; gpu: Backend } | null = null;

async function backends() {
  opened ??= {
    cpu: open(loadNative(process.env.KOALA_PREBUILT ? libraryPath("cpu") : await buildNative())),
    gpu: open(onGpu ? native : mirrored(loadNative(await buildEmulator({ quiet: true })))),
  };
  return opened;
}

const bits = (...arrays: NodeJS.TypedArray[]) =>
  arrays
    .map((array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64"))
    .join(" ");

/** What `work` makes on the CPU and on the GPU, as bits. */
async function both(work: (backend: Backend, call: (status: number) => void) => NodeJS.TypedArray[]) {
  const { cpu, gpu } = await backends();
  const on = (backend: Backend) => {
    const call = (status: number) => {
      if (status !== 0) throw new Error(String(backend.native.koala_last_error()));
    };
    return bits(...work(backend, call));
  };
  return [on(cpu), on(gpu)] as const;
}

describe.skipIf(process.arch !== "x64")("equal bits on the CPU and on a GPU (needs x86-64)", () => {
  // Odd sizes and a start that is not aligned: whole groups, their ends, and element by element.
  for (const [n, start] of [
    [4099, 0],
    [1003, 3],
  ] as const)
    for (const dtype of ["f32", "bf16"] as const)
      test(
        `twelve steps of AdamW with a split master, ${n} gradients of ${dtype} from place ${start}`,
        async () => {
          const [cpu, gpu] = await both(({ native, device }, call) => {
            const random = new Random(n);
            const master = Float32Array.from(random.normals(n + start, 0.02));
            const [w, low, m, v] = [0, 1, 2, 3].map(() => new Uint16Array(n + start)) as [
              Uint16Array,
              Uint16Array,
              Uint16Array,
              Uint16Array,
            ];
            call(native.koala_master_split(device, ptr(w), ptr(low), ptr(master), n + start));
            const places = [w, low, m, v].map((array) => ptr(array.subarray(start)));
            for (let step = 1; step <= 12; step++) {
              const g = encode(random.normals(n + start, 1e-3), dtype);
              const scalars = Float64Array.of(1e-3, 0.9, 0.95, 1e-8, 0.1, 0.7, step, 42);
              call(
                native.koala_adamw(
                  device,
                  places[0]!,
                  places[1]!,
                  places[2]!,
                  places[3]!,
                  ptr(g.subarray(start)),
                  n,
                  ptr(scalars),
                  2 ** 32 - 500,
                  1,
                  dtypeCode[dtype],
                ),
              );
            }
            call(native.koala_master_join(device, ptr(master), ptr(w), ptr(low), n + start));
            return [w, low, m, v, master];
          });
          expect(gpu === cpu).toBe(true);
        },
        5 * minutes,
      );

  test("AdamW in float32", async () => {
    const n = 2051;
    const [cpu, gpu] = await both(({ native, device }, call) => {
      const random = new Random(3);
      const w = Float32Array.from(random.normals(n));
      const [m, v] = [new Float32Array(n), new Float32Array(n)];
      for (let step = 1; step <= 5; step++) {
        const g = Float32Array.from(random.normals(n));
        const scalars = Float64Array.of(1e-2, 0.9, 0.999, 1e-8, 0.01, 1, step, 0);
        call(
          native.koala_adamw(
            device,
            ptr(w),
            null,
            ptr(m),
            ptr(v),
            ptr(g),
            n,
            ptr(scalars),
            0,
            0,
            dtypeCode.f32,
          ),
        );
      }
      return [w, m, v];
    });
    expect(gpu === cpu).toBe(true);
  });

  test("the sum of squares, over several pieces", async () => {
    for (const dtype of ["f32", "bf16", "f64"] as const) {
      const x = encode(new Random(7).normals(3 * 65_536 + 77), dtype);
      const [cpu, gpu] = await both(({ native, device }, call) => {
        const sum = new Float64Array(1);
        call(native.koala_sum_squares(device, ptr(sum), ptr(x), x.length, dtypeCode[dtype]));
        return [sum];
      });
      expect(gpu === cpu).toBe(true);
    }
  });

  test("the gradient of the embedding", async () => {
    const [T, D, V] = [50, 300, 7];
    const random = new Random(1);
    const tokens = Int32Array.from({ length: T }, () => random.below(V));
    const order = Int32Array.from([...tokens.keys()].sort((a, b) => tokens[a]! - tokens[b]! || a - b));
    const dy = encode(random.normals(T * D), "bf16");
    const [cpu, gpu] = await both(({ native, device }, call) => {
      const table = Float32Array.from({ length: V * D }, (_, i) => Math.sin(i));
      const [from, to, by] = [ptr(dy), ptr(table), ptr(order)];
      call(native.koala_embed_backward(device, to, from, ptr(tokens), by, T, D, V, dtypeCode.bf16));
      return [table];
    });
    expect(gpu === cpu).toBe(true);
  });
});
