/** koala_sample and koala_logprobs against plain float64 formulas, draws against exact probabilities. */
import { afterAll, describe, expect, test } from "bun:test";
import { availableIsas, check, cpuOnly, native, onGpu, ptr, Random, Target } from "./target.ts";

interface Row {
  logits: ArrayLike<number>;
  uniform?: number;
  temperature?: number;
  topP?: number;
  minP?: number;
  topK?: number;
  repetition?: number;
  frequency?: number;
  presence?: number;
  history?: number[];
  counts?: number[];
  bias?: [id: number, value: number][];
  allowed?: (id: number) => boolean;
}

function sample(target: Target, rows: Row[]): number[] {
  const V = rows[0]!.logits.length;
  const words = Math.ceil(V / 32);
  const logits = new Float32Array(rows.length * V);
  rows.forEach((row, r) => logits.set(row.logits, r * V));
  const scalars = Float32Array.from(
    rows.flatMap((o) => [
      o.temperature ?? 1,
      o.topP ?? 1,
      o.minP ?? 0,
      o.repetition ?? 1,
      o.frequency ?? 0,
      o.presence ?? 0,
      o.topK ?? 0,
    ]),
  );
  const uniform = Float64Array.from(rows, (row) => row.uniform ?? 0);
  const starts = (lengthOf: (row: Row) => number) =>
    Int32Array.from([
      0,
      ...rows.map((_, r) => rows.slice(0, r + 1).reduce((sum, row) => sum + lengthOf(row), 0)),
    ]);
  const masks: number[] = [];
  const maskRows = Int32Array.from(rows, (row) => {
    if (!row.allowed) return -1;
    const mask = Array.from({ length: words }, () => 0);
    for (let v = 0; v < V; v++) if (row.allowed(v)) mask[v >> 5]! |= 1 << (v & 31);
    return masks.push(...mask) / words - 1;
  });
  const list = (values: number[]) => Int32Array.from([...values, 0]);
  const ids = new Int32Array(rows.length).fill(-7);
  const [history, counts] = [
    list(rows.flatMap((row) => row.history ?? [])),
    list(rows.flatMap((row) => row.counts ?? [])),
  ];
  const [biasIds, biasValues] = [
    list(rows.flatMap((row) => (row.bias ?? []).map(([id]) => id))),
    Float32Array.from([...rows.flatMap((row) => (row.bias ?? []).map(([, value]) => value)), 0]),
  ];
  const mask = Uint32Array.from([...masks, 0]);
  const [historyStarts, biasStarts] = rows.some((row) => row.history || row.bias)
    ? [starts((row) => row.history?.length ?? 0), starts((row) => row.bias?.length ?? 0)]
    : [new Int32Array(rows.length + 1), new Int32Array(rows.length + 1)];
  check(
    native.koala_sample(
      target.device,
      ptr(ids),
      ptr(logits),
      ptr(scalars),
      ptr(uniform),
      ptr(historyStarts),
      ptr(history),
      ptr(counts),
      ptr(biasStarts),
      ptr(biasIds),
      ptr(biasValues),
      ptr(maskRows),
      ptr(mask),
      rows.length,
      V,
    ),
  );
  return [...ids];
}

/** What remains after all filters: ids in descending order and their probabilities, by the header's text. */
function distribution(row: Row): { id: number; p: number }[] {
  const logits = Array.from(row.logits);
  row.history?.forEach((id, i) => {
    const l = logits[id]!;
    logits[id] =
      (l > 0 ? l / (row.repetition ?? 1) : l * (row.repetition ?? 1)) -
      (row.frequency ?? 0) * row.counts![i]! -
      (row.counts![i]! > 0 ? (row.presence ?? 0) : 0);
  });
  for (const [id, value] of row.bias ?? []) logits[id]! += value;
  const order = logits.map((logit, id) => ({ id, logit })).filter(({ id }) => row.allowed?.(id) ?? true);
  order.sort((a, b) => b.logit - a.logit || a.id - b.id);
  const top = order[0]!.logit;
  let kept = order
    .slice(0, row.topK || order.length)
    .map(({ id, logit }) => ({ id, p: Math.exp((logit - top) / (row.temperature ?? 1)) }));
  const total = kept.reduce((sum, { p }) => sum + p, 0);
  let mass = 0;
  const end = kept.findIndex(({ p }) => (mass += p) >= (row.topP ?? 1) * total);
  if (row.topP && row.topP < 1) kept = kept.slice(0, end + 1);
  kept = kept.filter(({ p }) => p >= (row.minP ?? 0));
  const sum = kept.reduce((acc, { p }) => acc + p, 0);
  return kept.map(({ id, p }) => ({ id, p: p / sum }));
}

/** The drawn id, or null where `uniform` lies so near a border that float32 may fall on the other side. */
function drawn(kept: { id: number; p: number }[], uniform: number): number | null {
  let sum = 0;
  for (const { id, p } of kept) {
    if (Math.abs(sum + p - uniform) < 1e-5 || Math.abs(sum - uniform) < 1e-7) return null;
    sum += p;
    if (sum > uniform) return id;
  }
  return null;
}

const floats = (values: ArrayLike<number>) => Float32Array.from(values);

for (const isa of availableIsas()) {
  describe(`sampling on ${isa}`, () => {
    const target = Target.open({ isa, threads: 2 });
    afterAll(() => target.close());

    const settings: Record<string, Partial<Row>> = {
      "temperature 1": {},
      "temperature 0.3": { temperature: 0.3 },
      "temperature 5": { temperature: 5 },
      "top-k 1": { topK: 1 },
      "top-k 7": { topK: 7 },
      "top-k larger than the vocabulary": { topK: 100_000 },
      "top-p 0.5": { topP: 0.5 },
      "top-p 0.95, temperature 2": { topP: 0.95, temperature: 2 },
      "tiny top-p": { topP: 1e-6 },
      "min-p 0.05": { minP: 0.05 },
      "min-p 1": { minP: 1 },
      "top-k 40, top-p 0.8, min-p 0.02": { topK: 40, topP: 0.8, minP: 0.02 },
      "top-k 20, top-p 0.9, temperature 3": { topK: 20, topP: 0.9, temperature: 3 },
      "min-p 0.01 of a flat top-p": { topP: 0.99, minP: 0.01, temperature: 3 },
    };
    for (const [name, options] of Object.entries(settings)) {
      for (const [V, scale] of [
        [50, 2],
        [1003, 3],
        [4099, 0.1],
      ] as const) {
        test(`${name} draws what the formula draws (V=${V}, spread ${scale})`, () => {
          const random = new Random(V);
          const row: Row = { logits: floats(random.normals(V, scale)), ...options };
          const kept = distribution(row);
          const uniforms = Array.from({ length: 200 }, () => random.uniform());
          const ids = sample(
            target,
            uniforms.map((uniform) => ({ ...row, uniform })),
          );
          let compared = 0;
          uniforms.forEach((uniform, i) => {
            const want = drawn(kept, uniform);
            if (want === null) return;
            compared++;
            expect({ uniform, id: ids[i] }).toEqual({ uniform, id: want });
          });
          expect(compared).toBeGreaterThan(V > 4000 ? 130 : 150);
        });
      }
    }

    test("a flat row of 150 000 tokens is drawn in order", () => {
      const logits = floats(new Random(9).normals(150_000, 0.01));
      const kept = distribution({ logits });
      for (const uniform of [0, 0.1, 0.5, 0.9, 0.999999]) {
        const id = sample(target, [{ logits, uniform }])[0]!;
        const place = kept.findIndex((each) => each.id === id);
        expect(Math.abs(kept.slice(0, place).reduce((sum, { p }) => sum + p, 0) - uniform)).toBeLessThan(
          1e-5,
        );
      }
    });

    // Most of a minute on an emulated GPU, which draws what the formula draws above.
    test.skipIf(onGpu)(
      `frequencies of 40 000 draws fit the exact probabilities (chi-square)${cpuOnly}`,
      () => {
        const row: Row = {
          logits: floats(new Random(4).normals(40, 1.5)),
          temperature: 0.8,
          topK: 30,
          topP: 0.97,
        };
        const kept = distribution(row);
        const random = new Random(12345);
        const counts = new Map<number, number>();
        const n = 40_000;
        for (let i = 0; i < n; i += 2000) {
          const rows = Array.from({ length: 2000 }, () => ({ ...row, uniform: random.uniform() }));
          for (const id of sample(target, rows)) counts.set(id, (counts.get(id) ?? 0) + 1);
        }
        expect([...counts.keys()].filter((id) => !kept.some((each) => each.id === id))).toEqual([]);
        const chiSquare = kept.reduce(
          (sum, { id, p }) => sum + ((counts.get(id) ?? 0) - n * p) ** 2 / (n * p),
          0,
        );
        const freedom = kept.length - 1;
        expect(freedom).toBeGreaterThan(10);
        // Mean + 4 standard deviations of the chi-square distribution.
        expect(chiSquare).toBeLessThan(freedom + 4 * Math.sqrt(2 * freedom));
      },
    );

    test("equal logits go to the lowest id: greedy, top-k and the order of draws", () => {
      const logits = new Float32Array(100).fill(-3);
      for (const id of [90, 17, 40, 66]) logits[id] = 2;
      logits[17] = 2;
      expect(sample(target, [{ logits, temperature: 0 }])).toEqual([17]);
      expect(
        sample(
          target,
          [0, 0.3, 0.6, 0.9].map((uniform) => ({ logits, topK: 3, uniform })),
        ),
      ).toEqual([17, 17, 40, 66]);
      expect(
        sample(
          target,
          [0, 0.26, 0.51, 0.76].map((uniform) => ({ logits, topK: 4, uniform })),
        ),
      ).toEqual([17, 40, 66, 90]);
      const zeros = new Float32Array(37).map((_, i) => (i % 2 ? 0 : -0));
      expect(
        sample(target, [
          { logits: zeros, temperature: 0 },
          { logits: zeros, topK: 1, uniform: 0.9 },
        ]),
      ).toEqual([0, 0]);
    });

    test("a row with a NaN or without an allowed token gets -1 and harms no other", () => {
      const good = floats(new Random(1).normals(77));
      const bad = good.slice();
      bad[76] = Number.NaN;
      const best = [...good].indexOf(Math.max(...good));
      for (const temperature of [0, 1]) {
        const rows: Row[] = [
          { logits: good, topK: 1, temperature },
          { logits: bad, temperature },
          { logits: good, allowed: () => false, temperature },
          { logits: good, topK: 1, temperature },
        ];
        expect(sample(target, rows)).toEqual([best, -1, -1, best]);
      }
      expect(sample(target, [{ logits: new Float32Array(77).fill(-Infinity), temperature: 0 }])).toEqual([
        -1,
      ]);
    });

    test("infinite logits, hot and cold temperatures draw an allowed token", () => {
      const logits = new Float32Array(40).fill(-5);
      logits[9] = logits[30] = Infinity;
      expect(
        sample(target, [
          { logits, uniform: 0.2 },
          { logits, uniform: 0.7 },
          { logits, temperature: 0 },
        ]),
      ).toEqual([9, 30, 9]);
      const plain = floats(new Random(2).normals(40));
      const best = [...plain].indexOf(Math.max(...plain));
      expect(
        sample(target, [
          { logits: plain, temperature: 1e-30, uniform: 0.999 },
          { logits: plain, temperature: 1e-6, uniform: 0.5 },
        ]),
      ).toEqual([best, best]);
      expect(
        sample(target, [{ logits: plain, temperature: 1e20, uniform: 0.9999 }])[0],
      ).toBeGreaterThanOrEqual(0);
    });

    test("a mask excludes every token whose bit is clear, at any temperature", () => {
      const random = new Random(6);
      const logits = floats(random.normals(130, 2));
      const allowed = (id: number) => id % 5 === 2;
      const row: Row = { logits, allowed };
      const kept = distribution(row);
      expect(sample(target, [{ ...row, temperature: 0 }])).toEqual([kept[0]!.id]);
      for (const id of sample(
        target,
        Array.from({ length: 100 }, () => ({ ...row, uniform: random.uniform(), temperature: 3 })),
      ))
        expect(id % 5).toBe(2);
      expect(sample(target, [{ ...row, allowed: (id) => id === 129, uniform: 0.5 }])).toEqual([129]);
    });

    test("penalties and bias change the logits as the header says, in its order", () => {
      const logits = floats([1, 2, -1, 3, 0.5, -2]);
      const row: Row = {
        logits,
        history: [0, 1, 2, 3],
        counts: [0, 3, 1, 0],
        repetition: 1.25,
        frequency: 0.25,
        presence: 0.5,
        bias: [
          [4, 0.75],
          [5, 2.5],
        ],
      };
      // By hand: 1/1.25; 2/1.25 - 0.75 - 0.5; -1.25 - 0.25 - 0.5; 3/1.25; 0.5 + 0.75; -2 + 2.5.
      const want = [0.8, 0.35, -2, 2.4, 1.25, 0.5];
      const plain = distribution({ logits: want });
      expect(distribution(row).map(({ id }) => id)).toEqual(plain.map(({ id }) => id));
      const random = new Random(8);
      for (let i = 0; i < 100; i++) {
        const uniform = random.uniform();
        const id = drawn(plain, uniform);
        if (id !== null) expect(sample(target, [{ ...row, uniform }])).toEqual([id]);
      }
    });

    test("log-probabilities, ranks and best tokens are those of the formula", () => {
      for (const [V, k, scale] of [
        [37, 5, 2],
        [1000, 20, 4],
        [5000, 5000, 1],
        [64, 0, 1],
      ] as const) {
        const random = new Random(V);
        const R = 5;
        const logits = floats(random.normals(R * V, scale).map((x) => Math.round(x * 50) / 50));
        const ids = Int32Array.from({ length: R }, (_, r) => (r === 3 ? -1 : random.below(V)));
        const [logprobs, ranks, topIds, topLogprobs] = [
          new Float32Array(R),
          new Int32Array(R),
          new Int32Array(R * k + 1),
          new Float32Array(R * k + 1),
        ];
        check(
          native.koala_logprobs(
            target.device,
            ptr(logprobs),
            ptr(ranks),
            ptr(topIds),
            ptr(topLogprobs),
            ptr(logits),
            ptr(ids),
            R,
            V,
            k,
          ),
        );
        for (let r = 0; r < R; r++) {
          const row = logits.subarray(r * V, (r + 1) * V);
          const top = Math.max(...row);
          const logSum = top + Math.log(row.reduce((sum, l) => sum + Math.exp(l - top), 0));
          const order = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b).slice(0, k);
          expect([...topIds.subarray(r * k, (r + 1) * k)]).toEqual(order);
          order.forEach((id, i) =>
            expect(Math.abs(topLogprobs[r * k + i]! - (row[id]! - logSum))).toBeLessThan(2e-6),
          );
          const id = ids[r]!;
          if (id < 0) {
            expect([logprobs[r], ranks[r]]).toEqual([0, 0]);
            continue;
          }
          expect(Math.abs(logprobs[r]! - (row[id]! - logSum))).toBeLessThan(2e-6);
          expect(ranks[r]).toBe(1 + row.filter((l) => l > row[id]!).length);
          if (order.includes(id)) expect(topLogprobs[r * k + order.indexOf(id)]).toBe(logprobs[r]!);
        }
      }
    });
  });
}
