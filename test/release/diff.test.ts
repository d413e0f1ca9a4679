/** Weight diffs: every bit comes back, and whatever is damaged or wrong is refused by its name. */
import { describe, expect, test } from "bun:test";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TensorToWrite, writeSafetensors } from "../../src/model/safetensors.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { decodeDelta, encodeDelta } from "../../src/release/delta.ts";
import { applyDiff, verifyDiff } from "../../src/release/diff_apply.ts";
import { makeDiff } from "../../src/release/diff_make.ts";
import { uniform } from "../../src/util/rng.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = temporaryFolder("diff");
let folders = 0;
const newFolder = (): string => join(root, `f${folders++}`);

/** Bits of normal weights, as training has them. */
function weights(count: number, base: Float32Array | null, sigma: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => (base?.[i] ?? 0) + sigma * normal());
}

let draws = 0;
const draw = (): number => uniform(7, draws++);
const normal = (): number => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());

function bfloat16(values: Float32Array): Uint8Array {
  const words = new Uint32Array(values.buffer);
  return new Uint8Array(
    Uint16Array.from(words, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16).buffer,
  );
}

const float16 = (values: Float32Array): Uint8Array => new Uint8Array(new Float16Array(values).buffer);
const float32 = (values: Float32Array): Uint8Array => new Uint8Array(values.slice().buffer);

async function model(tensors: TensorToWrite[], extra: Record<string, string> = {}): Promise<string> {
  const folder = newFolder();
  await Bun.write(join(folder, "config.json"), '{"model_type": "llama"}');
  for (const [name, text] of Object.entries(extra)) await Bun.write(join(folder, name), text);
  await writeSafetensors(join(folder, "model.safetensors"), tensors, { format: "pt" });
  return folder;
}

const table = weights(40 * 16, null, 0.02);
const matrix = weights(32 * 16, null, 0.02);
const odd = new Float32Array([0, -0, NaN, Infinity, -Infinity, 1e-40, -1e-40, 3.4e38]);
const ids = new Uint8Array(BigInt64Array.from([1n, -2n, 3n]).buffer);

/** float16 base, bfloat16 target with two more rows and a tensor that the base has not. */
async function pair(): Promise<{ base: string; tuned: string }> {
  const base = await model([
    { name: "embed", dtype: "F16", shape: [40, 16], data: float16(table) },
    { name: "matrix", dtype: "F32", shape: [32, 16], data: float32(matrix) },
    { name: "odd", dtype: "F32", shape: [8], data: float32(odd) },
    { name: "norm", dtype: "BF16", shape: [16], data: bfloat16(matrix.slice(0, 16)) },
    { name: "ids", dtype: "I64", shape: [3], data: ids },
  ]);
  const grown = new Float32Array(42 * 16);
  grown.set(weights(table.length, table, 1e-4));
  grown.set(weights(32, null, 0.02), table.length);
  const tuned = await model(
    [
      { name: "embed", dtype: "BF16", shape: [42, 16], data: bfloat16(grown) },
      {
        name: "matrix",
        dtype: "F32",
        shape: [32, 16],
        data: float32(weights(matrix.length, matrix, 1e-3)),
      },
      { name: "odd", dtype: "F32", shape: [8], data: float32(odd.toReversed()) },
      { name: "norm", dtype: "BF16", shape: [16], data: bfloat16(matrix.slice(0, 16)) },
      { name: "ids", dtype: "I64", shape: [3], data: ids.toReversed() },
      { name: "head", dtype: "BF16", shape: [5, 3], data: bfloat16(weights(15, null, 1)) },
      { name: "empty", dtype: "F32", shape: [0, 4], data: new Uint8Array(0) },
    ],
    { "tokenizer.json": "{}", "README.md": "# tuned" },
  );
  return { base, tuned };
}

async function made(): Promise<{ base: string; tuned: string; diff: string }> {
  const { base, tuned } = await pair();
  const diff = newFolder();
  await makeDiff({ base, tuned, out: diff });
  return { base, tuned, diff };
}

const sentence = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: Error) => `${error.name}: ${error.message}`,
  );

describe("the difference of two tensors", () => {
  test("gives back every 16-bit pattern from every kind of base", () => {
    const all = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);
    for (const step of [0, 1, 0x7fff, 0x8000, 0xbeef]) {
      const base = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i * 3 + step).buffer);
      expect(Buffer.compare(decodeDelta(2, encodeDelta(2, all, base), base), all)).toBe(0);
    }
    expect(Buffer.compare(decodeDelta(2, encodeDelta(2, all, null), null), all)).toBe(0);
  });

  test("is small where values are close, over zero too", () => {
    const values = (list: number[]): Uint8Array => new Uint8Array(new Float32Array(list).buffer);
    const ulp = 2 ** -149;
    const [a, b, c, d] = encodeDelta(4, values([1 + 2 ** -23, ulp, -ulp]), values([1, -ulp, 0]));
    // One step up is 2 after folding; from -2^-149 over -0 and 0 to 2^-149 are three steps, and two down from 0.
    expect([a![0], b![0], c![0], [...d!]]).toEqual([0, 0, 0, [2, 6, 3]]);
  });
});

describe("a diff", () => {
  test("gives back every file byte for byte, from another type and with a grown vocabulary", async () => {
    const { base, tuned, diff } = await made();
    const out = newFolder();
    await applyDiff({ base, diff, out });
    expect(readdirSync(out).sort()).toEqual(readdirSync(tuned).sort());
    for (const name of readdirSync(tuned))
      expect(Buffer.compare(readFileSync(join(out, name)), readFileSync(join(tuned, name)))).toBe(0);
    expect(
      (await verifyDiff({ base, diff })).header.shards[0]!.tensors.find(({ name }) => name === "norm"),
    ).toMatchObject({
      method: "same",
      chunks: [],
    });
  });

  test("takes the share of bfloat16 weights that the published figures name", async () => {
    const count = 1 << 18;
    const from = weights(count, null, 0.02);
    const base = await model([{ name: "w", dtype: "BF16", shape: [count], data: bfloat16(from) }]);
    // Measured on 33.5 M weights: .457, .267, .095 (integer difference, byte planes, zstd 3).
    for (const [sigma, share] of [
      [1e-3, 0.457],
      [1e-4, 0.267],
      [1e-5, 0.095],
    ] as const) {
      const words = new Uint32Array(Uint16Array.from(new Uint16Array(bfloat16(from).buffer)).length);
      new Uint16Array(bfloat16(from).buffer).forEach((half, i) => (words[i] = half << 16));
      const to = weights(count, new Float32Array(words.buffer), sigma);
      const tuned = await model([{ name: "w", dtype: "BF16", shape: [count], data: bfloat16(to) }]);
      const { diffBytes, tunedBytes } = await makeDiff({ base, tuned, out: newFolder() });
      expect(diffBytes / tunedBytes).toBeCloseTo(share, 1);
    }
  });

  test("is refused as a model, with the way out", async () => {
    const { diff } = await made();
    expect(await sentence(openCheckpoint(diff))).toContain("koala diff apply");
  });
});

describe("is refused, and nothing is written,", () => {
  async function refused(
    spoil: (of: { base: string; diff: string }) => void | Promise<void>,
  ): Promise<string> {
    const { base, diff } = await made();
    const places = { base, diff };
    await spoil(places);
    const out = newFolder();
    const told = await sentence(applyDiff({ ...places, out }));
    expect(existsSync(out)).toBe(false);
    expect(readdirSync(root).filter((name) => name.endsWith(".partial"))).toEqual([]);
    return told;
  }

  test("a base with one other bit", async () => {
    const told = await refused(({ base }) => {
      const file = join(base, "model.safetensors");
      const bytes = readFileSync(file);
      bytes[bytes.length - 1]! ^= 1;
      writeFileSync(file, bytes);
    });
    expect(told).toMatch(
      /^UsageError: .* is not the base .*: tensor \w+ has other weights\. Nothing was written\.$/,
    );
  });

  test("a base of another size, or without a tensor", async () => {
    expect(
      await refused(async (places) => {
        places.base = await model([{ name: "embed", dtype: "F16", shape: [8, 4], data: new Uint8Array(64) }]);
      }),
    ).toMatch(/it has no tensor \w+\.|tensor embed is F16 8x4, not F16 40x16/);
  });

  test("a diff with any byte flipped, each told as damage", async () => {
    const { base, diff } = await made();
    for (const name of readdirSync(diff).filter((file) => file !== "README.md")) {
      const path = join(diff, name);
      const good = readFileSync(path);
      for (let i = 0; i < 24; i++) {
        const at = Math.floor((i * good.length) / 24);
        const bad = Buffer.from(good);
        bad[at]! ^= 0x10;
        writeFileSync(path, bad);
        const told = await sentence(verifyDiff({ base, diff }));
        expect(told).toMatch(/^UsageError: .*(damaged|changed)/);
      }
      writeFileSync(path, good);
    }
    expect(await sentence(verifyDiff({ base, diff }))).toBe("no error");
  });

  test("a diff that was cut short, or lacks a file", async () => {
    const cut = (name: string) => (places: { diff: string }) => truncateSync(join(places.diff, name), 40);
    expect(await refused(cut("diff.bin"))).toContain("it was cut short");
    expect(await refused(cut("diff.json"))).toContain("damaged");
    expect(
      await refused(({ diff }) => {
        rmSync(join(diff, "tokenizer.json"));
      }),
    ).toContain("tokenizer.json is missing");
  });

  test("a model whose base shares no tensor", async () => {
    const { tuned } = await pair();
    const base = await model([{ name: "other", dtype: "F32", shape: [1], data: new Uint8Array(4) }]);
    expect(await sentence(makeDiff({ base, tuned, out: newFolder() }))).toContain("is not the base of");
  });

  test("a folder that is in use", async () => {
    const { base, tuned, diff } = await made();
    const full = newFolder();
    cpSync(base, full, { recursive: true });
    expect(await sentence(makeDiff({ base, tuned, out: full }))).toContain("is not empty");
    expect(await sentence(applyDiff({ base, diff, out: full }))).toContain("is there already");
  });
});
