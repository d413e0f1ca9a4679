/** Weights of Meta, EasyLM and PyTorch, and deltas of 2023: what those programs wrote (make_release.py) comes out bit for bit. */
import { describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { applyArithmeticDelta } from "../../src/release/arithmetic.ts";
import { importModel, type ImportKind } from "../../src/release/import.ts";
import { halfSplit, pairwise } from "../../src/release/layouts.ts";
import { torchTensors } from "../../src/release/torch_file.ts";
import { temporaryFolder } from "../support/temporary.ts";

const golden = join(import.meta.dir, "..", "golden", "release");
const root = temporaryFolder("import");
let folders = 0;
const newFolder = (): string => join(root, `f${folders++}`);

/** Name to type, shape and bytes. */
async function contents(folder: string): Promise<Map<string, string>> {
  const { tensors } = await openCheckpoint(folder);
  return new Map(
    [...tensors]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, { file, dtype, shape, begin, end }]) => [
        name,
        `${dtype} ${shape.join("x")} ${readFileSync(file).subarray(begin, end).toString("hex")}`,
      ]),
  );
}

const sentence = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: Error) => `${error.name}: ${error.message}`,
  );

describe("an import gives the weights that Hugging Face's layout has", () => {
  const cases: [ImportKind, string, string, string | null][] = [
    ["meta", "meta", "hf", null],
    ["easylm", "easylm/params.stream", "easylm", "easylm"],
    ["torch", "torch", "hf", null],
  ];
  test.each(cases)("from %s", async (kind, source, expected, like) => {
    const out = newFolder();
    const options = { kind, source: join(golden, source), out };
    await importModel(like ? { ...options, like: join(golden, like) } : options);
    expect(await contents(out)).toEqual(await contents(join(golden, expected)));
    const config = (await Bun.file(join(out, "config.json")).json()) as object;
    expect(config).toMatchObject((await Bun.file(join(golden, expected, "config.json")).json()) as object);
  });

  test("and its change of the rotation's layout has a way back", () => {
    const bytes = new Uint8Array(16 * 3).map((_, i) => i);
    expect(halfSplit(bytes, 16, 2)).not.toEqual(bytes);
    expect(pairwise(halfSplit(bytes, 16, 2), 16, 2)).toEqual(bytes);
  });
});

describe("an arithmetic delta gives what its program gave", () => {
  test.each(["fastchat", "alpaca"] as const)("of %s", async (kind) => {
    const out = newFolder();
    await applyArithmeticDelta({ kind, base: join(golden, "hf"), delta: join(golden, kind), out });
    expect(await contents(out)).toEqual(await contents(join(golden, `${kind}-tuned`)));
  });

  test("of EasyLM: the float32 sum, rounded to bfloat16", async () => {
    const out = newFolder();
    const base = join(golden, "hf");
    await applyArithmeticDelta({ kind: "easylm", base, delta: join(golden, "easylm", "params.stream"), out });
    const bits = (hex: string): Uint16Array =>
      new Uint16Array(Uint8Array.from(Buffer.from(hex, "hex")).buffer);
    const [sums, halves, deltas] = [
      await contents(out),
      await contents(base),
      await contents(join(golden, "easylm")),
    ];
    for (const [name, text] of sums) {
      const [dtype, , hex] = text.split(" ") as [string, string, string];
      expect(dtype).toBe("BF16");
      const from = new Float16Array(bits(halves.get(name)!.split(" ")[2]!).buffer);
      const delta = new Float32Array(
        Uint32Array.from(bits(deltas.get(name)!.split(" ")[2]!), (x) => x << 16).buffer,
      );
      const got = new Float32Array(Uint32Array.from(bits(hex), (x) => x << 16).buffer);
      got.forEach((value, i) => {
        const sum = from[i]! + delta[i]!;
        expect(Math.abs(value - sum)).toBeLessThanOrEqual(Math.abs(sum) * 2 ** -8);
      });
    }
  });

  test("and refuses a base of another size", async () => {
    const told = await sentence(
      applyArithmeticDelta({
        kind: "fastchat",
        base: join(golden, "hf"),
        delta: join(golden, "alpaca"),
        out: newFolder(),
      }),
    );
    expect(told).toMatch(/is not the base of this delta: tensor .* is 20x16 there and 21x16 in the delta\.$/);
  });
});

describe("a PyTorch file is data and never a program:", () => {
  test("one that would run a command is refused by the command's name", async () => {
    const told = await sentence(torchTensors(join(golden, "torch", "evil.pt")));
    expect(told).toMatch(
      /^UsageError: evil\.pt cannot be read .* it names posix\.system, .* Nothing in it was run\.$/,
    );
    expect(existsSync("ran")).toBe(false);
  });

  test("a view that is not row-major is refused by its tensor's name", async () => {
    expect(await sentence(torchTensors(join(golden, "torch", "transposed.pt")))).toContain(
      "tensor w is a view",
    );
  });

  test("whatever is cut short or changed is refused with a sentence or read as it stands", async () => {
    const file = readFileSync(join(golden, "meta", "consolidated.00.pth"));
    const path = join(root, "spoiled.pth");
    const check = async (bytes: Uint8Array): Promise<void> => {
      writeFileSync(path, bytes);
      expect(await sentence(torchTensors(path))).toMatch(
        /^(no error|UsageError: spoiled\.pth cannot be read)/,
      );
    };
    for (let i = 0; i < 60; i++) await check(file.subarray(0, Math.floor((i * file.length) / 60)));
    for (let i = 0; i < 200; i++) {
      const bytes = Buffer.from(file);
      bytes[(i * 7919) % 2500]! ^= 1 << (i % 8);
      await check(bytes);
    }
  });

  test("an EasyLM stream that is cut short is refused with a sentence", async () => {
    const file = readFileSync(join(golden, "easylm", "params.stream"));
    for (let i = 0; i < 40; i++) {
      const path = join(root, "cut.stream");
      writeFileSync(path, file.subarray(0, 1 + Math.floor((i * (file.length - 2)) / 40)));
      const told = await sentence(
        importModel({ kind: "easylm", source: path, out: newFolder(), like: join(golden, "easylm") }),
      );
      expect(told).toMatch(/^UsageError: /);
    }
  });

  test("a piece of a model that is missing is named", async () => {
    const folder = newFolder();
    mkdirSync(folder);
    copyFileSync(join(golden, "meta", "consolidated.00.pth"), join(folder, "consolidated.00.pth"));
    const kind = "meta";
    expect(await sentence(importModel({ kind, source: folder, out: newFolder() }))).toContain(
      "no params.json",
    );
    expect(await sentence(importModel({ kind, source: root, out: newFolder() }))).toContain(
      "consolidated.00.pth",
    );
  });
});
