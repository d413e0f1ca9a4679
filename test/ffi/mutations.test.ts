/** Do the tests find what goes wrong on a GPU? Each mutation plants one fault in a copy of a kernel (a lost barrier, a lost
 *  wait for a copy, an index off by one), builds the emulator with it, and expects a test to fail.
 *
 *  A few in an ordinary run, all of them with KOALA_EMULATOR_TESTS=all. */
import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildEmulator, buildMutant } from "../../ffi/build_gpu.ts";

interface Mutation {
  name: string;
  /** Of ffi/cuda. */
  file: string;
  /** The .cu that holds or includes it. */
  unit: string;
  from: string;
  to: string;
  /** A file of test/ffi, and which of its tests. */
  test: string;
  pattern: string;
  always?: boolean;
}

const mutations: Mutation[] = [
  {
    name: "a product that does not wait for other threads' copies",
    file: "gemm.cuh",
    unit: "matmul",
    test: "ops",
    pattern: "matmul",
    from: "    __syncthreads();  // this piece has come",
    to: "    // this piece has come",
    always: true,
  },
  {
    name: "a product that waits for one copy too few",
    file: "gemm.cuh",
    unit: "matmul",
    test: "ops",
    pattern: "matmul",
    from: "cp_async_wait<Tile::STAGES - 2>();",
    to: "cp_async_wait<Tile::STAGES - 1>();",
    always: true,
  },
  {
    name: "a product that leaves out the last columns",
    file: "gemm.cuh",
    unit: "matmul",
    test: "ops",
    pattern: "matmul",
    from: "k + c < K;",
    to: "k + c + 8 < K;",
  },
  {
    name: "a product that leaves its last row unwritten",
    file: "gemm.cuh",
    unit: "matmul",
    test: "ops",
    pattern: "matmul",
    from: "if (t >= p.T || n >= p.N) return;",
    to: "if (t >= p.T - 1 || n >= p.N) return;",
  },
  {
    name: "a product of int8 with the scales of the block before",
    file: "quantised.cuh",
    unit: "matmul",
    test: "ops",
    pattern: "x q8",
    from: "k / QUANT_K * Tile::BN + row]",
    to: "row]",
  },
  {
    name: "a product of int4 with scales rounded to bf16",
    file: "quantised.cuh",
    unit: "matmul",
    test: "quantised",
    pattern: "q4 product",
    from: "fma_bf16x2(v, low, 0x80008000u)",
    to: "0x80008000u",
  },
  {
    name: "int8 halves that are not rounded away from zero",
    file: "quantised_pack.cuh",
    unit: "matmul_pack",
    test: "quantised",
    pattern: "ties and halves",
    from: "rest >= 0.5f",
    to: "rest > 0.5f",
  },
  {
    name: "a float32 product that overwrites what others still read",
    file: "simt_gemm.cuh",
    unit: "matmul",
    test: "ops",
    pattern: "matmul",
    from: "    __syncthreads();\n  }",
    to: "  }",
  },
  {
    name: "a block sum read before all have written",
    file: "kernels.cuh",
    unit: "norm",
    test: "ops",
    pattern: "rms_norm",
    from: "part[threadIdx.x / 32] = v;\n  __syncthreads();",
    to: "part[threadIdx.x / 32] = v;",
    always: true,
  },
  {
    name: "a norm of what was there before the sum",
    file: "norm.cu",
    unit: "norm",
    test: "ops",
    pattern: "add_rms_norm",
    from: "v[j] += w[j];\n    store_some(row, v, i, D, wide);",
    to: "v[j] += 0 * w[j];\n    store_some(row, v, i, D, wide);",
  },
  {
    name: "a warp sum without its last step",
    file: "kernels.cuh",
    unit: "norm",
    test: "ops",
    pattern: "qk_norm",
    from: "for (int mask = 16; mask; mask /= 2) v += shfl_xor",
    to: "for (int mask = 16; mask > 1; mask /= 2) v += shfl_xor",
  },
  {
    name: "an angle of the next pair",
    file: "rope.cuh",
    unit: "rope",
    test: "ops",
    pattern: "rope",
    from: "((int64_t)position * half + i) * 2",
    to: "((int64_t)position * half + i + 1) * 2",
    always: true,
  },
  {
    name: "eight pairs with the angles of the first four twice",
    file: "rope.cuh",
    unit: "rope",
    test: "ops",
    pattern: "rope",
    from: "load_8(angles + ROPE_PAIRS, angle + ROPE_PAIRS);",
    to: "load_8(angles + ROPE_PAIRS, angle);",
  },
  {
    name: "a transposition that reads too early",
    file: "matmul_pack.cu",
    unit: "matmul_pack",
    test: "gradients",
    pattern: "matmul",
    from: "  __syncthreads();\n  for (int i = y; i < SIDE",
    to: "  for (int i = y; i < SIDE",
  },
  {
    name: "a weight gradient that waits for one copy too few",
    file: "gradient.cu",
    unit: "gradient",
    test: "gradients",
    pattern: "matmul",
    from: "cp_async_wait<STAGES - 2>();",
    to: "cp_async_wait<STAGES - 1>();",
  },
  {
    name: "flash attention that waits for one tile too few",
    file: "flash.cuh",
    unit: "attention",
    test: "ops",
    pattern: "E=64|E=128",
    from: "cp_async_wait<RING - 2>();",
    to: "cp_async_wait<RING - 1>();",
  },
  {
    name: "f8 keys of the wrong scales",
    file: "flash_f8.cuh",
    unit: "attention",
    test: "ops",
    pattern: "E=(64|128).*cache f8",
    from: "const float a = scales[i * 8], b = scales[i * 8 + 1];",
    to: "const float a = scales[i * 8 + 1], b = scales[i * 8];",
  },
  {
    name: "f8 values without their scales",
    file: "flash_f8.cuh",
    unit: "attention",
    test: "ops",
    pattern: "E=(64|128).*cache f8",
    from: "return weight == 0 ? 0.f : weight * scale;",
    to: "return weight + 0 * scale;",
  },
  {
    name: "f8 codes that are cut instead of rounded",
    file: "e4m3.cuh",
    unit: "cache",
    test: "cache_f8",
    pattern: "middles",
    from: "magnitude + 0x7ffff + (magnitude >> 20 & 1)",
    to: "magnitude",
  },
  {
    name: "decoded tokens that leave out their last split of keys",
    file: "attention.cu",
    unit: "attention",
    test: "ops",
    pattern: "E=(64|128)",
    from: "for (int n = 1; n < range.count(); n++)",
    to: "for (int n = 1; n < range.count() - 1; n++)",
  },
  {
    name: "attention's gradient read before all have copied",
    file: "flash_backward.cuh",
    unit: "document_attention_backward",
    test: "gradients",
    pattern: "E=64",
    from: "    cp_async_wait<0>();\n    __syncthreads();",
    to: "    cp_async_wait<0>();",
  },
  {
    name: "a sum of squares that loses a barrier",
    file: "sum_squares.cu",
    unit: "sum_squares",
    test: "training_ops",
    pattern: "sums of squares",
    from: "    __syncthreads();",
    to: "",
  },
  {
    name: "ranks that sum each other's memory without meeting",
    file: "comm_peer.cu",
    unit: "comm_peer",
    test: "peer",
    pattern: "when rank 1 is lost",
    from: "return comm_settle(c) || comm_meet(c, collective) ? -1 : 0;",
    to: "return comm_settle(c);",
    always: true,
  },
  {
    name: "ranks that sum from the last to the first",
    file: "rank_sums.cuh",
    unit: "comm_peer",
    test: "peer",
    pattern: "in rank order",
    from: "for (int r = 0; r < world; r++) {\n    compute_t<In>",
    to: "for (int r = world - 1; r >= 0; r--) {\n    compute_t<In>",
  },
  {
    name: "a rank that frees memory which others still read",
    file: "comm_peer.cu",
    unit: "comm_peer",
    test: "peer",
    pattern: "no slot is freed",
    from: "    comm_outlast_readers(c, LAST_READS_S);",
    to: "",
  },
  {
    name: "a part of a sum in the place of another rank's",
    file: "comm_peer.cu",
    unit: "comm_peer",
    test: "peer",
    pattern: "in rank order",
    from: "halves.parts<T>(c->world, c->rank * stride)",
    to: "halves.parts<T>(c->world, c->rank * count)",
  },
  {
    name: "scratch that is freed while a graph uses it",
    file: "device.cu",
    unit: "device",
    test: "graphs",
    pattern: "scratch",
    from: "if (!is_recorded(dev, dev->scratch)) cudaFree",
    to: "cudaFree",
    always: true,
  },
  {
    name: "a recording that is waited for",
    file: "device.cu",
    unit: "device",
    test: "graphs",
    pattern: "KOALA_SYNC",
    from: "dev->synchronous && !dev->recording",
    to: "dev->synchronous",
  },
  {
    name: "a recorded upload, whose bytes are others' when the graph is launched",
    file: "device.cu",
    unit: "device",
    test: "graphs",
    pattern: "cannot be recorded has",
    from: "if (dev->recording) return wait_for(dev);",
    to: "",
  },
  {
    name: "a launch whose faults have the name of the op before it",
    file: "graph.cu",
    unit: "graph",
    test: "graphs",
    pattern: "fault",
    from: "if (graph->checks[kind].symbol) dev->checks",
    to: "if (false) dev->checks",
  },
  {
    name: "a recorded kernel with an argument on the host's stack",
    file: "embed.cu",
    unit: "embed",
    test: "graphs",
    pattern: "bits of the calls",
    from: "  const bool wide = is_aligned(y) && is_aligned(table)",
    to: "  int32_t kept[64];\n  memcpy(kept, tokens, T * 4);\n  tokens = kept;\n  const bool wide = is_aligned(y) && is_aligned(table)",
  },
];

const absent =
  process.arch !== "x64" || process.env.KOALA_TEST_LIBRARY ? " (x86-64 only, and not within itself)" : "";
const everything = process.env.KOALA_EMULATOR_TESTS === "all";
const root = join(import.meta.dir, "..", "..");
const minutes = 60_000;

describe.skipIf(absent !== "")(`the tests notice${absent}`, () => {
  const dir = mkdtempSync(join(tmpdir(), "koala-mutations-"));
  afterAll(() => rmSync(dir, { recursive: true }));

  for (const mutation of mutations.filter(({ always }) => always || everything))
    test(
      mutation.name,
      async () => {
        await buildEmulator({ quiet: true });
        cpSync(join(root, "ffi"), join(dir, "ffi"), { recursive: true });
        const file = join(dir, "ffi", "cuda", mutation.file);
        const sound = readFileSync(file, "utf8");
        expect(sound).toContain(mutation.from);
        writeFileSync(file, sound.replace(mutation.from, mutation.to));
        const library = join(dir, `${mutation.unit}.so`);
        await buildMutant({ sourceDir: join(dir, "ffi", "cuda"), unit: mutation.unit, library });
        expect(await outcome(mutation, join(root, "build", "libkoala_emu.so"))).toBe("passes");
        expect(await outcome(mutation, library)).toBe("fails");
      },
      5 * minutes,
    );
});

async function outcome({ test: name, pattern }: Mutation, library: string): Promise<string> {
  const child = Bun.spawn(
    [process.execPath, "test", "--timeout", "60000", "-t", pattern, `test/ffi/${name}.test.ts`],
    {
      cwd: root,
      env: { ...process.env, KOALA_TEST_LIBRARY: library, KOALA_TEST_INNER: "1" },
      stdout: "ignore",
      stderr: "pipe",
    },
  );
  const text = await new Response(child.stderr).text();
  const code = await child.exited;
  if (code === 0) return /^ *[1-9]\d* pass$/m.test(text) ? "passes" : `ran nothing: ${text}`;
  return /^ *[1-9]\d* fail$/m.test(text) ? "fails" : `broke: ${text.slice(-2000)}`;
}
