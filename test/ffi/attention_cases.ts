/** Cases of the paged attention: a batch of sequences over shuffled pages whose unused slots hold garbage. */
import type { Pointer } from "bun:ffi";
import { dtypeCode } from "../../src/tensor/tensor.ts";
import {
  check,
  decode,
  encode,
  native,
  ptr,
  Random,
  zeros,
  type Elements,
  type FloatType,
  type Target,
} from "./target.ts";

import { bytesOf, concatenate, shuffled, TOLERANCE, type Case } from "./case.ts";
import { throughE4m3 } from "./e4m3.ts";

export interface AttentionShape {
  /** Queries and total length (past included) of each sequence. */
  sequences: { queries: number; length: number }[];
  H: number;
  G: number;
  E: number;
  P: number;
  window?: number;
  ctype: FloatType | "f8";
  dtype: FloatType;
}

/** Keys and values of all sequences go through koala_cache_write into shuffled pages of NaN; then the last `queries`
 *  tokens of each attend. */
export function attentionCase(o: AttentionShape): Case {
  const { sequences, H, G, E, ctype, dtype, window = 0 } = o;
  const pairs = sequences.reduce((sum, s) => sum + s.queries * (s.length - (s.queries - 1) / 2), 0);
  const keys = sequences.reduce((sum, s) => sum + s.length, 0);
  return {
    name: `attention ${sequences.length > 4 ? `${sequences.length} of` : ""} ${sequences
      .slice(0, sequences.length > 4 ? 1 : 4)
      .map((s) => `${s.queries}/${s.length}`)
      .join(" ")} H=${H} G=${G} E=${E} P=${o.P}${window ? ` window ${window}` : ""} ${dtype} cache ${ctype}`,
    flops: 4 * pairs * H * E,
    bytes: 2 * keys * G * (ctype === "f8" ? E + 4 : E * bytesOf(ctype)),
    // Tensor cores and their like multiply bfloat16: queries and weights are rounded to it.
    tolerance: ctype === "bf16" || ctype === "f8" ? 2e-5 : TOLERANCE[dtype],
    prepare(target) {
      const run = new AttentionRun(target, o, new Random(keys + H));
      return {
        call: () => run.attend(),
        actual: () => run.result(),
        expected: () => run.formula(),
        release: () => run.release(),
      };
    },
  };
}

export class AttentionRun {
  readonly qkv: Elements[];
  readonly y: Elements;
  private readonly pages: number[][] = [];
  private readonly M: number;
  private readonly cacheBytes: number;
  private readonly cache: { keys: Pointer; values: Pointer };
  private readonly inputs: { qkv: Pointer; starts: Pointer; lengths: Pointer; pages: Pointer; y: Pointer };

  /** `first`: tokens of the first sequence, at least as many as it is long; the rest comes from `random`. */
  constructor(
    readonly target: Target,
    readonly o: AttentionShape,
    random: Random,
    first?: Elements,
  ) {
    const { sequences, H, G, E, P, ctype, dtype } = o;
    const width = (H + 2 * G) * E;
    this.qkv = sequences.map((s, i) =>
      i === 0 && first ? first.slice(0, s.length * width) : encode(random.normals(s.length * width), dtype),
    );
    this.M = Math.max(...sequences.map((s) => Math.ceil(s.length / P))) + 1;
    const free = shuffled(sequences.length * this.M, random);
    for (const s of sequences) this.pages.push(free.splice(0, Math.ceil(s.length / P)));
    const bytes = target.size((out) =>
      native.koala_cache_page_bytes(target.device, out, P, G, E, dtypeCode[ctype]),
    );
    this.cacheBytes = bytes * sequences.length * this.M;
    this.cache = { keys: target.allocate(this.cacheBytes), values: target.allocate(this.cacheBytes) };
    // 0xff bytes are NaN in every type: whatever no one wrote must not be seen.
    const garbage = new Uint8Array(this.cacheBytes).fill(0xff);
    for (const memory of [this.cache.keys, this.cache.values])
      check(native.koala_memory_copy(target.device, memory, ptr(garbage), this.cacheBytes));
    sequences.forEach((s, i) => this.write(i, 0, s.length));
    const starts = [0];
    for (const s of sequences) starts.push(starts.at(-1)! + s.queries);
    this.y = zeros(starts.at(-1)! * H * E, dtype);
    this.inputs = {
      qkv: target.at(
        concatenate(
          sequences.map((s, i) => this.qkv[i]!.slice((s.length - s.queries) * width)),
          dtype,
        ),
      ),
      starts: target.i32(starts),
      lengths: target.i32(sequences.map((s) => s.length)),
      pages: target.i32(
        this.pages.flatMap((list) => [...list, ...Array.from({ length: this.M - list.length }, () => -1)]),
      ),
      y: target.at(this.y),
    };
  }

  /** Stores tokens [from, to) of one sequence. */
  private write(sequence: number, from: number, to: number): void {
    const { H, G, E, P, ctype, dtype } = this.o;
    const slots = Array.from(
      { length: to - from },
      (_, i) => this.pages[sequence]![Math.floor((from + i) / P)]! * P + ((from + i) % P),
    );
    const rows = this.qkv[sequence]!.slice(from * (H + 2 * G) * E, to * (H + 2 * G) * E);
    check(
      native.koala_cache_write(
        this.target.device,
        this.cache.keys,
        this.cache.values,
        this.target.at(rows),
        this.target.i32(slots),
        to - from,
        H,
        G,
        E,
        P,
        dtypeCode[ctype],
        dtypeCode[dtype],
      ),
    );
  }

  release(): void {
    for (const memory of [this.cache.keys, this.cache.values])
      check(native.koala_memory_free(this.target.device, memory, this.cacheBytes));
  }

  attend(): void {
    const { sequences, H, G, E, P, ctype, dtype, window = 0 } = this.o;
    const { qkv, starts, lengths, pages, y } = this.inputs;
    check(
      native.koala_attention(
        this.target.device,
        y,
        qkv,
        this.cache.keys,
        this.cache.values,
        starts,
        lengths,
        pages,
        sequences.length,
        this.M,
        P,
        H,
        G,
        E,
        window,
        1 / Math.sqrt(E),
        dtypeCode[ctype],
        dtypeCode[dtype],
      ),
    );
  }

  result(): Float64Array {
    return decode(this.y, this.o.dtype);
  }

  formula(): Float64Array {
    const { sequences, H, G, E, ctype, dtype, window = 0 } = this.o;
    const width = (H + 2 * G) * E;
    const out: number[] = [];
    sequences.forEach((s, index) => {
      const q = decode(this.qkv[index]!, dtype);
      const cached = ctype === "f8" ? throughHeads(q, width, H * E, E) : decode(encode(q, ctype), ctype);
      for (let i = s.length - s.queries; i < s.length; i++)
        for (let h = 0; h < H; h++) {
          const g = Math.floor(h / (H / G));
          const first = window > 0 ? Math.max(0, i - window + 1) : 0;
          const scores: number[] = [];
          for (let j = first; j <= i; j++) {
            let dot = 0;
            for (let e = 0; e < E; e++)
              dot += q[i * width + h * E + e]! * cached[j * width + (H + g) * E + e]!;
            scores.push(dot * Math.fround(1 / Math.sqrt(E)));
          }
          const top = Math.max(...scores);
          const weights = scores.map((x) => Math.exp(x - top));
          const sum = weights.reduce((a, b) => a + b, 0);
          for (let e = 0; e < E; e++)
            out.push(
              weights.reduce((acc, p, n) => acc + p * cached[(first + n) * width + (H + G + g) * E + e]!, 0) /
                sum,
            );
        }
    });
    return Float64Array.from(out);
  }
}

/** Rows of `width` with all heads from column `first` on as an f8 cache keeps them. */
function throughHeads(x: Float64Array, width: number, first: number, E: number): Float64Array {
  const out = x.slice();
  for (let row = 0; row < x.length; row += width)
    for (let at = row + first; at < row + width; at += E) out.set(throughE4m3(x.subarray(at, at + E)), at);
  return out;
}
