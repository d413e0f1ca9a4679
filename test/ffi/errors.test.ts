/** Wrong arguments give one sentence and -1; nothing is written and the device goes on working. */
import { afterAll, describe, expect, test } from "bun:test";
import type { Pointer } from "bun:ffi";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import { availableIsas, check, cpuOnly, cstring, ISAS, native, onGpu, ptr, Target } from "./target.ts";

const target = Target.open({ threads: 1 });
const dev = target.device;
afterAll(() => target.close());

const [F32, BF16, F64, F16] = [dtypeCode.f32, dtypeCode.bf16, dtypeCode.f64, dtypeCode.f16];
const F8 = dtypeCode.f8;
const x = target.at(new Float32Array(4096));
const i = (...values: number[]) => target.i32(values);
const none = null as unknown as Pointer;

const wrong: Record<string, [() => number, RegExp]> = {
  "a null pointer": [
    () => native.koala_rms_norm(dev, x, none, x, 1, 4, 1e-5, F32),
    /koala_rms_norm: x is a null pointer\./,
  ],
  "a norm of a sum without what is added": [
    () => native.koala_add_rms_norm(dev, x, x, none, x, 1, 4, 1e-5, F32),
    /koala_add_rms_norm: delta is a null pointer\./,
  ],
  "a norm of a sum of no columns": [
    () => native.koala_add_rms_norm(dev, x, x, x, x, 1, 0, 1e-5, F32),
    /koala_add_rms_norm: D is 0 and must be positive\./,
  ],
  "a norm of a sum in f16": [
    () => native.koala_add_rms_norm(dev, x, x, x, x, 1, 4, 1e-5, F16),
    /koala_add_rms_norm: dtype is 3 \(f16\); f32, bf16 and f64 are supported\./,
  ],
  "a null device": [
    () => native.koala_rms_norm(none, x, x, x, 1, 4, 1e-5, F32),
    /koala_rms_norm: dev is a null pointer\./,
  ],
  "a negative row count": [
    () => native.koala_matmul(dev, x, x, x, none, -1, 4, 4, 0, F32, F32),
    /koala_matmul: T is -1 and must not be negative\./,
  ],
  "a matrix without columns": [
    () => native.koala_matmul(dev, x, x, x, none, 1, 4, 0, 0, F32, F32),
    /koala_matmul: K is 0 and must be positive\./,
  ],
  "f16 activations": [
    () => native.koala_silu_mul(dev, x, x, 1, 4, F16),
    /koala_silu_mul: dtype is 3 \(f16\); f32, bf16 and f64 are supported\./,
  ],
  "an unknown weight type": [
    () => native.koala_matmul(dev, x, x, x, none, 1, 4, 4, 0, 18, F32),
    /wtype is 18 \(unknown\)/,
  ],
  "f64 weights for f32 activations": [
    () => native.koala_matmul(dev, x, x, x, none, 1, 4, 4, 0, F64, F32),
    /f64 weights need f64 activations, and these are f32\./,
  ],
  "rows packed behind the end": [
    () => native.koala_matmul_pack(dev, x, x, 8, 4, 6, 3, F32, F32),
    /rows 6 to 9 do not fit a matrix of 8 rows\./,
  ],
  "a token outside the vocabulary": [
    () => native.koala_embed(dev, x, x, i(3, 8), 2, 4, 8, F32, F32),
    /token 8 of row 1 is outside the vocabulary of 8\./,
  ],
  "a negative token": [() => native.koala_embed(dev, x, x, i(-1), 1, 4, 8, F32, F32), /token -1 of row 0/],
  "an odd head": [
    () => native.koala_rope(dev, x, x, i(0), 1, 2, 1, 7, F32),
    /head dimension is 7 and must be even\./,
  ],
  "a negative position": [
    () => native.koala_rope(dev, x, x, i(-2), 1, 2, 1, 8, F32),
    /position -2 of row 0 is negative\./,
  ],
  "a page of 48 tokens": [
    () => native.koala_cache_page_bytes(dev, target.at(new Float64Array(1)), 48, 2, 8, F32),
    /a page has 48 tokens; it must be a positive multiple of 32\./,
  ],
  "a cache of f16": [
    () => native.koala_cache_page_bytes(dev, target.at(new Float64Array(1)), 32, 2, 8, F16),
    /koala_cache_page_bytes: ctype is 3 \(f16\); f32, bf16, f64 and f8 are supported\./,
  ],
  "an f8 cache written from f64": [
    () => native.koala_cache_write(dev, x, x, x, i(5), 1, 2, 1, 8, 32, F8, F64),
    /koala_cache_write: an f8 cache needs f32 or bf16 activations, and these are f64\./,
  ],
  "an f8 cache read by f64": [
    () => native.koala_attention(dev, x, x, x, x, i(0, 1), i(1), i(0), 1, 1, 32, 2, 1, 8, 0, 1, F8, F64),
    /koala_attention: an f8 cache needs f32 or bf16 activations, and these are f64\./,
  ],
  "f8 activations": [
    () => native.koala_attention(dev, x, x, x, x, i(0, 1), i(1), i(0), 1, 1, 32, 2, 1, 8, 0, 1, F8, F8),
    /koala_attention: dtype is 5 \(f8\); f32, bf16 and f64 are supported\./,
  ],
  "a negative slot": [
    () => native.koala_cache_write(dev, x, x, x, i(-5), 1, 2, 1, 8, 32, F32, F32),
    /slot -5 of row 0 is negative\./,
  ],
  "descending starts": [
    () => attend([2, 0], [3], 1, 0),
    /starts must ascend from 0, and sequence 0 runs from 2 to 0\./,
  ],
  "a length below the queries": [
    () => attend([0, 4], [3], 1, 0),
    /sequence 0 has 4 queries but a length of 3\./,
  ],
  "a length beyond the pages": [
    () => attend([0, 1], [65], 2, 0),
    /sequence 0 has a length of 65, more than 2 pages of 32 tokens hold\./,
  ],
  "heads that cannot be grouped": [
    () => native.koala_attention(dev, x, x, x, x, i(0, 1), i(1), i(0), 1, 1, 32, 3, 2, 8, 0, 1, F32, F32),
    /3 query heads cannot share 2 key\/value heads evenly\./,
  ],
  "a scale of 0": [
    () => native.koala_attention(dev, x, x, x, x, i(0, 1), i(1), i(0), 1, 1, 32, 2, 2, 8, 0, 0, F32, F32),
    /the scale is 0 and must be a positive number\./,
  ],
  "a negative row to gather": [
    () => native.koala_gather_rows(dev, x, x, i(-3), 1, 4, F32),
    /index -3 of row 0 is negative\./,
  ],
  "descending sums": [
    () => native.koala_sum_rows(dev, x, x, i(0, 3, 1), 2, 4, F32),
    /sequence 1 runs from 3 to 1\./,
  ],
  "a NaN temperature": [
    () => sample({ temperature: Number.NaN }),
    /the temperature of row 0 is nan; it must be 0 or more\./,
  ],
  "a top-p of 0": [() => sample({ topP: 0 }), /top_p of row 0 is 0; it must be above 0 and at most 1\./],
  "a random number of 1": [
    () => sample({ uniform: 1 }),
    /the random number of row 0 is 1; it must be in \[0, 1\)\./,
  ],
  "a history token outside the vocabulary": [
    () => sample({ history: 9 }),
    /history token 9 is outside the vocabulary of 8\./,
  ],
  "more best tokens than the vocabulary": [
    () => native.koala_logprobs(dev, x, x, x, x, x, i(0), 1, 8, 9),
    /k is 9 and must be from 0 to the vocabulary of 8\./,
  ],
  "a token to score outside the vocabulary": [
    () => native.koala_logprobs(dev, x, x, x, x, x, i(8), 1, 8, 1),
    /token 8 of row 0 is outside the vocabulary of 8\./,
  ],
  "half a byte": [
    () => native.koala_memory_alloc(dev, target.at(new BigUint64Array(1)), 0.5),
    /0\.5 is not a number of bytes\./,
  ],
  "more memory than any machine has": [
    () => native.koala_memory_alloc(dev, target.at(new BigUint64Array(1)), 2 ** 52),
    /no memory for 4294967296\.0 MiB more\./,
  ],
  "a second CPU device": [
    () => native.koala_device_open(target.at(new BigUint64Array(1)), 1, 1),
    /there is no CPU device 1; the CPU is device 0\./,
  ],
  "too many threads": [
    () => native.koala_device_open(target.at(new BigUint64Array(1)), 0, 100_000),
    /100000 threads were asked for; 0 \(one per core\) to 256 are possible\./,
  ],
  "a buffer too small for the description": [
    () => native.koala_device_info(dev, x, 10),
    /takes \d+ bytes and the buffer has 10\./,
  ],
};

/** What lies in arrays only kernels see; the last two are about processors. */
const cpuSentences = [
  "descending starts",
  "a length below the queries",
  "a length beyond the pages",
  "descending sums",
  "a NaN temperature",
  "a top-p of 0",
  "a random number of 1",
  "a history token outside the vocabulary",
  "a second CPU device",
  "too many threads",
];

for (const [name, [call, sentence]] of Object.entries(wrong)) {
  const absent = onGpu && cpuSentences.includes(name);
  test.skipIf(absent)(`${name} gives a sentence${absent ? cpuOnly : ""}`, () => {
    expect(call()).toBe(-1);
    expect(String(native.koala_last_error())).toMatch(sentence);
  });
}

function attend(starts: number[], lengths: number[], M: number, window: number): number {
  return native.koala_attention(
    dev,
    x,
    x,
    x,
    x,
    i(...starts),
    i(...lengths),
    i(0, 0),
    1,
    M,
    32,
    2,
    1,
    8,
    window,
    1,
    F32,
    BF16,
  );
}

function sample(o: { temperature?: number; topP?: number; uniform?: number; history?: number }): number {
  const scalars = target.at(Float32Array.of(o.temperature ?? 1, o.topP ?? 1, 0, 1, 0, 0, 0));
  return native.koala_sample(
    dev,
    x,
    x,
    scalars,
    target.at(Float64Array.of(o.uniform ?? 0)),
    i(0, o.history === undefined ? 0 : 1),
    i(o.history ?? 0),
    i(0),
    i(0, 0),
    none,
    none,
    i(-1),
    none,
    1,
    8,
  );
}

describe("devices", () => {
  test.skipIf(onGpu)(`describe themselves${cpuOnly}`, () => {
    const info = target.info();
    expect(ISAS as readonly string[]).toContain(info.isa);
    expect(info.threads).toBe(1);
    expect(info.name.length).toBeGreaterThan(0);
    expect(info.memory_bytes).toBeGreaterThan(1e8);
    const all = Target.open();
    expect(all.info().threads).toBeGreaterThanOrEqual(1);
    expect(all.info().threads).toBeLessThanOrEqual(navigator.hardwareConcurrency);
    all.close();
  });

  test.skipIf(onGpu)(`run the instruction set that KOALA_ISA names${cpuOnly}`, () => {
    for (const isa of availableIsas()) {
      const forced = Target.open({ isa, threads: 1 });
      expect(forced.info().isa).toBe(isa);
      forced.close();
    }
    expect(() => Target.open({ isa: "mmx" })).toThrow(/KOALA_ISA is "mmx"; this library has/);
  });

  for (const isa of ISAS.filter((each) => process.arch === "x64" && !availableIsas().includes(each))) {
    test(`refuse ${isa} with what the processor lacks`, () => {
      expect(() => Target.open({ isa })).toThrow(
        new RegExp(`KOALA_ISA asks for ${isa}, but this processor lacks AVX`),
      );
    });
  }
});

describe("mapped files", () => {
  const dir = mkdtempSync(join(tmpdir(), "koala-map-"));
  afterAll(() => rmSync(dir, { recursive: true }));
  const out = { data: new BigUint64Array(1), bytes: new Float64Array(1) };
  const map = (path: string) => native.koala_file_map(ptr(out.data), ptr(out.bytes), cstring(path));

  test("hold the file's bytes", () => {
    const file = join(dir, "weights");
    writeFileSync(file, "koala koala koala");
    check(map(file));
    const copy = new Uint8Array(out.bytes[0]!);
    check(native.koala_memory_copy(dev, ptr(copy), Number(out.data[0]) as Pointer, copy.length));
    expect(Buffer.from(copy).toString()).toBe("koala koala koala");
    check(native.koala_file_unmap(Number(out.data[0]) as Pointer, copy.length));
  });

  test("that are missing, empty or folders are named with the reason", () => {
    const empty = join(dir, "empty");
    writeFileSync(empty, "");
    for (const [path, reason] of [
      [join(dir, "absent"), "No such file or directory"],
      [empty, "it is empty"],
      [dir, "it is not a file"],
    ] as const) {
      expect(map(path)).toBe(-1);
      expect(String(native.koala_last_error())).toContain(path);
      expect(String(native.koala_last_error())).toContain(reason);
    }
  });
});

test("memory is zeroed, aligned and copied in both directions, also where source and target overlap", () => {
  for (const bytes of [1, 100, 5_000_000]) {
    const memory = target.allocate(bytes);
    expect(Number(memory) % 64).toBe(0);
    const back = new Uint8Array(bytes).fill(9);
    check(native.koala_memory_copy(dev, ptr(back), memory, bytes));
    expect(back.every((byte) => byte === 0)).toBe(true);
    const pattern = new Uint8Array(bytes).map((_, at) => (at * 31) & 255);
    check(native.koala_memory_copy(dev, memory, ptr(pattern), bytes));
    check(native.koala_memory_copy(dev, (Number(memory) + 1) as Pointer, memory, bytes - 1));
    check(native.koala_memory_copy(dev, ptr(back), memory, bytes));
    expect(Buffer.compare(back.subarray(1), pattern.subarray(0, bytes - 1))).toBe(0);
    check(native.koala_memory_free(dev, memory, bytes));
  }
});
