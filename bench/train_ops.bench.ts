/** Speed of the native training ops at a model's sizes: `bun bench/train_ops.bench.ts [--quick] [--threads N] [--tokens T] [filter]`.
 *
 *  As in ops.bench.ts the machine's peaks are measured in the same run: trust the percentages more than the figures.
 *  Times are medians. Bytes are those that must be read or written once. */
import { ptr, type Pointer } from "bun:ffi";
import { dtypeCode } from "../src/tensor/tensor.ts";
import { check, encode, native, Random, Target } from "../test/ffi/target.ts";

/** A LLaMA of 0.5 billion parameters. */
const MODEL = { D: 1536, F: 4096, H: 12, G: 12, E: 128, V: 32000 } as const;
const { f32: F32, bf16: BF16 } = dtypeCode;

const args = process.argv.slice(2);
const quick = args.includes("--quick");
const option = (name: string, otherwise: number) =>
  args.includes(name) ? Number(args[args.indexOf(name) + 1]) : otherwise;
const filter = args.find((arg, i) => !arg.startsWith("--") && !args[i - 1]?.startsWith("--")) ?? "";
const T = option("--tokens", 512);

interface Row {
  name: string;
  flops: number;
  bytes: number;
  /** Of which peak the products are: bf16 or float32. */
  compute: "bf16" | "f32";
  call(): number;
}

const target = Target.open({ threads: option("--threads", 0) });
const dev = target.device;
const peaks = new Float64Array(3);
check(native.koala_device_measure(dev, ptr(peaks)));
const [bandwidth, f32Peak, bf16Peak] = [peaks[0]!, peaks[1]!, peaks[2]!];
const info = target.info();
console.log(
  `${info.name}, ${info.isa}, ${info.threads} threads, ${T} tokens: reads ${bandwidth.toFixed(1)} GB/s, float32 ${f32Peak.toFixed(0)} and bf16 ${bf16Peak.toFixed(0)} GFLOP/s`,
);
print(["op", "us", "GB/s", "% of read", "GFLOP/s", "% of peak"]);
for (const make of [products, attention, rows, loss, optimizer]) for (const row of make()) report(row);
target.close();

/** Device memory filled with small numbers, given back after the row. */
function memory(n: number, bytesEach = 4, scale = 1): Pointer {
  const data = target.allocate(n * bytesEach);
  const piece = encode(
    new Random(n).normals(Math.min(n, 1_000_003), scale),
    bytesEach === 2 ? "bf16" : "f32",
  );
  for (let at = 0; at < n; at += piece.length)
    check(
      native.koala_memory_copy(
        dev,
        (Number(data) + at * bytesEach) as Pointer,
        ptr(piece),
        Math.min(piece.length, n - at) * bytesEach,
      ),
    );
  return data;
}

/** Packing of a transpose, dx = dy w, dw = dy^T x, for each matrix of a block. */
function* products(): Generator<Row> {
  const { D, F, H, G, E } = MODEL;
  for (const [N, K] of [
    [(H + 2 * G) * E, D],
    [D, D],
    [2 * F, D],
    [D, F],
  ] as const)
    for (const compute of ["bf16", "f32"] as const) {
      const type = dtypeCode[compute];
      const each = compute === "bf16" ? 2 : 4;
      if (
        ![`pack transposed`, `dx`, `dw`].some((name) => `${name} N=${N} K=${K} ${compute}`.includes(filter))
      )
        continue;
      const [w, dy, x, dw] = [memory(N * K, each), memory(T * N), memory(T * K), memory(N * K)];
      const packed = target.allocate(
        target.size((out) => native.koala_matmul_pack_bytes(dev, out, K, N, type)),
      );
      const flops = 2 * T * N * K;
      const name = (op: string) => `${op} N=${N} K=${K} ${compute}`;
      yield {
        name: name("pack transposed"),
        flops: 0,
        bytes: 2 * N * K * each,
        compute,
        call: () => native.koala_matmul_pack_transposed(dev, packed, w, N, K, type, type),
      };
      yield {
        name: name("dx"),
        flops,
        bytes: N * K * each,
        compute,
        call: () => native.koala_matmul(dev, x, dy, packed, null, T, K, N, 0, type, F32),
      };
      yield {
        name: name("dw"),
        flops,
        bytes: 2 * N * K * 4,
        compute,
        call: () => native.koala_matmul_weight_gradient(dev, dw, dy, x, T, N, K, type, F32),
      };
    }
}

function* attention(): Generator<Row> {
  const { H, E } = MODEL;
  for (const [S, L, G] of [
    [1, T, H],
    [1, T, H / 4],
    [8, T / 8, H],
    [1, 4 * T, H],
  ] as const) {
    const rows = S * L;
    const width = (H + 2 * G) * E;
    const [qkv, dqkv, y, dy, lse] = [
      memory(rows * width),
      memory(rows * width),
      memory(rows * H * E),
      memory(rows * H * E),
      memory(rows * H),
    ];
    const starts = target.i32(Array.from({ length: S + 1 }, (_, s) => s * L));
    const pairs = (S * H * L * (L + 1)) / 2;
    const [scale, shape] = [1 / Math.sqrt(E), `${S} x ${L} H=${H} G=${G} E=${E}`];
    yield {
      name: `attention ${shape}`,
      flops: 4 * pairs * E,
      bytes: rows * (width + H * E) * 4,
      compute: "f32",
      call: () =>
        native.koala_document_attention(
          dev,
          y,
          lse,
          qkv,
          starts,
          null,
          S,
          H,
          G,
          E,
          0,
          0,
          0,
          0,
          0,
          scale,
          F32,
        ),
    };
    // Five products: scores, their slopes, and the gradients of queries, keys and values.
    yield {
      name: `attention backward ${shape}`,
      flops: 10 * pairs * E,
      bytes: rows * (2 * width + 2 * H * E) * 4,
      compute: "f32",
      call: () =>
        native.koala_document_attention_backward(
          dev,
          dqkv,
          dy,
          y,
          lse,
          qkv,
          starts,
          null,
          S,
          H,
          G,
          E,
          0,
          0,
          0,
          0,
          0,
          scale,
          F32,
        ),
    };
  }
}

function* rows(): Generator<Row> {
  const { D, F, H, G, E, V } = MODEL;
  const [x, dx, weight, dweight] = [memory(T * D), memory(T * D), memory(D), memory(D)];
  const [gateUp, dgateUp, dy] = [memory(2 * T * F), memory(2 * T * F), memory(T * F)];
  const qkv = memory(T * (H + 2 * G) * E);
  const table = memory(T * E);
  const positions = target.i32(Array.from({ length: T }, (_, t) => t));
  const tokens = target.i32(Array.from({ length: T }, (_, t) => (t * 7919) % V));
  const dtable = memory(V * D);
  const plain = { flops: 0, compute: "f32" } as const;
  yield {
    ...plain,
    name: "rms_norm backward",
    bytes: 3 * T * D * 4,
    call: () => native.koala_rms_norm_backward(dev, dx, dweight, dx, x, weight, T, D, 1e-5, 0, F32),
  };
  yield {
    ...plain,
    name: "rope backward",
    bytes: 2 * T * (H + G) * E * 4,
    call: () => native.koala_rope_backward(dev, qkv, table, positions, T, H, G, E, F32),
  };
  yield {
    ...plain,
    name: "silu_mul backward",
    bytes: 5 * T * F * 4,
    call: () => native.koala_silu_mul_backward(dev, dgateUp, dy, gateUp, T, F, F32),
  };
  yield {
    ...plain,
    name: "embed backward",
    bytes: 3 * T * D * 4,
    call: () => native.koala_embed_backward(dev, dtable, x, tokens, positions, T, D, V, F32),
  };
  yield {
    ...plain,
    name: "bias gradient",
    bytes: T * 2 * F * 4,
    call: () => native.koala_bias_gradient(dev, dweight, gateUp, T, D, F32),
  };
  yield {
    ...plain,
    name: "dropout",
    bytes: 2 * T * D * 4,
    call: () => native.koala_dropout(dev, dx, x, 0, T * D, 1, 0.1, F32),
  };
}

function* loss(): Generator<Row> {
  const { V } = MODEL;
  const R = 128;
  const [logits, lse, logprobs, weights] = [memory(R * V), memory(R), memory(R), memory(R)];
  const targets = target.i32(Array.from({ length: R }, (_, r) => (r * 7919) % V));
  const name = `R=${R} V=${V}`;
  yield {
    name: `cross_entropy ${name}`,
    flops: 0,
    bytes: R * V * 4,
    compute: "f32",
    call: () => native.koala_cross_entropy(dev, logprobs, lse, logits, targets, R, V, F32),
  };
  yield {
    name: `cross_entropy backward ${name}`,
    flops: 0,
    bytes: 2 * R * V * 4,
    compute: "f32",
    call: () => native.koala_cross_entropy_backward(dev, logits, lse, weights, targets, R, V, F32),
  };
}

function* optimizer(): Generator<Row> {
  const n = 32 << 20;
  const scalars = target.at(Float64Array.of(1e-5, 0.9, 0.95, 1e-8, 0.1, 1, 7, 1));
  const sum = target.at(new Float64Array(1));
  const [w, m, v, g] = [memory(n), memory(n, 4, 1e-4), memory(n, 4, 0), memory(n, 4, 1e-3)];
  const [high, low, m16, v16] = [memory(n, 2), memory(n, 2), memory(n, 2, 1e-4), memory(n, 2, 0)];
  const common = { flops: 0, compute: "f32" } as const;
  yield {
    ...common,
    name: `adamw ${n} f32`,
    bytes: 28 * n,
    call: () => native.koala_adamw(dev, w, null, m, v, g, n, scalars, 0, 0, F32),
  };
  yield {
    ...common,
    name: `adamw ${n} split`,
    bytes: 20 * n,
    call: () => native.koala_adamw(dev, high, low, m16, v16, g, n, scalars, 0, 1, F32),
  };
  yield {
    ...common,
    name: `sum_squares ${n}`,
    bytes: 4 * n,
    call: () => native.koala_sum_squares(dev, sum, g, n, F32),
  };
  yield {
    ...common,
    name: `cast ${n} f32 to bf16`,
    bytes: 6 * n,
    call: () => native.koala_cast(dev, high, w, n, BF16, F32),
  };
  yield {
    ...common,
    name: `axpby ${n}`,
    bytes: 12 * n,
    call: () => native.koala_axpby(dev, w, g, n, 1, 1, F32),
  };
}

/** Median of as many calls as fit into the time for one row. */
function report({ name, flops, bytes, compute, call }: Row): void {
  if (!name.includes(filter)) return;
  const times: number[] = [];
  const end = performance.now() + (quick ? 100 : 400);
  for (let i = 0; i < 5 || (performance.now() < end && i < 20_000); i++) {
    const start = Bun.nanoseconds();
    check(call());
    times.push(Bun.nanoseconds() - start);
  }
  const seconds = times.sort((a, b) => a - b)[times.length >> 1]! * 1e-9;
  const [gbs, gflops] = [(bytes / seconds) * 1e-9, (flops / seconds) * 1e-9];
  const percent = (part: number, whole: number) => `${Math.round((part / whole) * 100)}`;
  const peak = compute === "bf16" ? bf16Peak : f32Peak;
  print([
    name,
    (seconds * 1e6).toFixed(1),
    gbs.toFixed(1),
    percent(gbs, bandwidth),
    gflops.toFixed(1),
    percent(gflops, peak),
  ]);
}

function print([name, ...columns]: string[]): void {
  console.log(name!.padEnd(56) + columns.map((text) => text.padStart(10)).join(""));
}
