/** Speed of the native ops at a model's sizes, against what this machine can do: `bun bench/ops.bench.ts [--quick] [--threads N] [filter]`.
 *
 *  The peaks (read bandwidth, float32 and bf16 products) are measured in the same run, because a shared machine changes
 *  from minute to minute: trust the percentages, and ratios of rows, more than absolute figures. Weights rotate through
 *  copies that no cache holds. Times are medians. */
import { attentionCase } from "../test/ffi/attention_cases.ts";
import type { Case } from "../test/ffi/case.ts";
import { embedCase, matmulCase, rmsNormCase, ropeCase, siluMulCase } from "../test/ffi/cases.ts";
import { weightBytes } from "../test/ffi/quantise.ts";
import { check, encode, native, ptr, Random, Target } from "../test/ffi/target.ts";

/** A LLaMA of 0.5 billion parameters. */
const MODEL = { D: 1536, F: 4096, H: 12, G: 12, E: 128 } as const;
const LARGER_THAN_CACHES = 320e6;

const args = process.argv.slice(2);
const quick = args.includes("--quick");
const threads = args.includes("--threads") ? Number(args[args.indexOf("--threads") + 1]) : 0;
const filter = args.find((arg, i) => !arg.startsWith("--") && args[i - 1] !== "--threads") ?? "";

const target = Target.open({ threads });
const [bandwidth, f32Peak, bf16Peak] = measurePeaks();
const info = target.info();
console.log(
  `${info.name}, ${info.isa}, ${info.threads} threads: reads ${bandwidth.toFixed(1)} GB/s, float32 ${f32Peak.toFixed(0)} and bf16 ${bf16Peak.toFixed(0)} GFLOP/s`,
);
print(["op", "us", "GB/s", "% of read", "GFLOP/s", "% of peak"]);
for (const each of cases()) if (each.name.includes(filter)) report(each, time(each));
for (const [name, run] of vocabularyOps())
  if (name.includes(filter)) print([name, (run() * 1e6).toFixed(1), "", "", "", ""]);
target.close();

function cases(): Case[] {
  const { D, F, H, G, E } = MODEL;
  const dtype = "f32" as const;
  const list: Case[] = [];
  for (const wtype of ["bf16", "q8", "q4", "f32"] as const) {
    for (const T of quick ? [1, 32, 512] : [1, 2, 4, 8, 16, 32, 128, 512]) {
      const copies = T <= 32 ? 0 : 1;
      for (const [N, K] of [
        [(H + 2 * G) * E, D],
        [2 * F, D],
        [D, F],
      ] as const) {
        const bytes = N * K * weightBytes[wtype];
        list.push(
          matmulCase({ T, N, K, wtype, dtype, copies: copies || Math.ceil(LARGER_THAN_CACHES / bytes) }),
        );
      }
    }
  }
  for (const T of [1, 8, 32, 512]) {
    list.push(
      embedCase({ T, D, V: 64, ttype: "bf16", dtype }),
      rmsNormCase({ T, D, dtype }),
      ropeCase({ T, H, G, E, dtype }),
      siluMulCase({ T, F, dtype }),
    );
  }
  const attention = { H, G, E, P: 64, ctype: "bf16", dtype } as const;
  for (const S of [1, 8, 32])
    list.push(
      attentionCase({
        sequences: Array.from({ length: S }, () => ({ queries: 1, length: 300 })),
        ...attention,
      }),
    );
  for (const ctype of ["bf16", "f8"] as const)
    list.push(
      attentionCase({ sequences: [{ queries: 512, length: 512 }], ...attention, ctype }),
      attentionCase({ sequences: [{ queries: 1, length: 2048 }], ...attention, ctype }),
      attentionCase({ sequences: [{ queries: 1, length: 2048 }], ...attention, H: 32, G: 4, ctype }),
    );
  return list;
}

/** Sampling and log-probabilities of 8 rows over 150 000 tokens; logits are copied back before each call. */
function vocabularyOps(): [string, () => number][] {
  const [R, V] = [8, 150_000];
  const logits = encode(new Random(1).normals(R * V, 3), "f32") as Float32Array;
  const work = logits.slice();
  const none = target.i32(Array.from({ length: R + 1 }, () => 0));
  const [ids, masks, uniform] = [
    target.at(new Int32Array(R)),
    target.i32(Array.from({ length: R }, () => -1)),
    target.at(Float64Array.from({ length: R }, (_, r) => (r + 0.5) / R)),
  ];
  const sample = (scalars: number[]) => () => {
    const packed = target.at(Float32Array.from({ length: R * 7 }, (_, i) => scalars[i % 7]!));
    return timeCall(
      () =>
        check(
          native.koala_sample(
            target.device,
            ids,
            ptr(work),
            packed,
            uniform,
            none,
            null,
            null,
            none,
            null,
            null,
            masks,
            null,
            R,
            V,
          ),
        ),
      () => work.set(logits),
    );
  };
  const [a, b, c, d] = [
    new Float32Array(R),
    new Int32Array(R),
    new Int32Array(R * 20),
    new Float32Array(R * 20),
  ];
  return [
    [`sample R=${R} V=${V} greedy`, sample([0, 1, 0, 1, 0, 0, 0])],
    [`sample R=${R} V=${V} temperature 1`, sample([1, 1, 0, 1, 0, 0, 0])],
    [`sample R=${R} V=${V} temperature 0.7 top-p 0.9`, sample([0.7, 0.9, 0, 1, 0, 0, 0])],
    [`sample R=${R} V=${V} top-k 50`, sample([1, 1, 0, 1, 0, 0, 50])],
    [
      `logprobs R=${R} V=${V} top 20`,
      () =>
        timeCall(() =>
          check(
            native.koala_logprobs(target.device, ptr(a), ptr(b), ptr(c), ptr(d), ptr(logits), ids, R, V, 20),
          ),
        ),
    ],
  ];
}

function measurePeaks(): [number, number, number] {
  const peaks = new Float64Array(3);
  check(native.koala_device_measure(target.device, ptr(peaks)));
  return [peaks[0]!, peaks[1]!, peaks[2]!];
}

function time(each: Case): number {
  const prepared = each.prepare(target);
  const seconds = timeCall(() => prepared.call());
  prepared.release?.();
  return seconds;
}

/** Median of as many calls as fit into the time for one row. */
function timeCall(call: () => void, before: () => void = () => {}): number {
  const times: number[] = [];
  const end = performance.now() + (quick ? 100 : 300);
  for (let i = 0; i < 5 || (performance.now() < end && i < 20_000); i++) {
    before();
    const start = Bun.nanoseconds();
    call();
    times.push(Bun.nanoseconds() - start);
  }
  return times.sort((x, y) => x - y)[times.length >> 1]! * 1e-9;
}

function report(each: Case, seconds: number): void {
  const [gbs, gflops] = [(each.bytes / seconds) * 1e-9, (each.flops / seconds) * 1e-9];
  const peak = /bf16|q8|q4/.test(each.name) ? bf16Peak : f32Peak;
  const percent = (part: number, whole: number) => `${Math.round((part / whole) * 100)}`;
  print([
    each.name,
    (seconds * 1e6).toFixed(1),
    gbs.toFixed(1),
    percent(gbs, bandwidth),
    gflops.toFixed(1),
    percent(gflops, peak),
  ]);
}

function print([name, ...columns]: string[]): void {
  console.log(name!.padEnd(64) + columns.map((text) => text.padStart(10)).join(""));
}
