/** Safetensors headers: what the reference writes is read, what lies is refused, and what we write is what it writes. */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readSafetensorsHeader, type TensorToWrite, writeSafetensors } from "../../src/model/safetensors.ts";
import { UsageError } from "../../src/util/errors.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("safetensors");
const shared = new URL("../../../shared", import.meta.url).pathname;
const realFiles = ["models/stories260K", "reference/llama-mha", "reference/qwen2-bias"]
  .map((name) => join(shared, name, "model.safetensors"))
  .filter((path) => existsSync(path));
const goldenFiles = readdirSafe(join(shared, "reference"))
  .map((name) => join(shared, "reference", name, "golden.safetensors"))
  .filter((path) => existsSync(path));

function readdirSafe(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : [];
}

/** A file with this header text and this many zero bytes of data; `length`: what the length field says. */
function fileWith(header: string | Uint8Array, dataBytes: number, length?: bigint): string {
  const json = Buffer.from(header as string);
  const bytes = Buffer.alloc(8 + json.length + dataBytes);
  bytes.writeBigUInt64LE(length ?? BigInt(json.length), 0);
  json.copy(bytes, 8);
  return save(bytes);
}

function save(bytes: Uint8Array): string {
  const path = join(folder, "case.safetensors");
  writeFileSync(path, bytes);
  return path;
}

/** The sentence with which a file is refused. */
async function refusal(path: string): Promise<string> {
  const outcome = await readSafetensorsHeader(path).then(
    () => "accepted",
    (error: unknown) => error,
  );
  if (!(outcome instanceof UsageError)) throw new Error(`not refused by a sentence: ${outcome}`);
  return outcome.message;
}

const one = (fields: object) =>
  JSON.stringify({ w: { dtype: "F32", shape: [2, 2], data_offsets: [0, 16], ...fields } });

describe("the reference implementation's own examples", () => {
  // huggingface/safetensors, safetensors/src/tensor.rs: test_serialization, test_serialization_forced_alignement, test_lifetimes.
  const values = new Uint8Array(Float32Array.of(0, 1, 2, 3, 4, 5).buffer);

  test("one tensor is written as the same bytes", async () => {
    const path = join(folder, "attn.safetensors");
    await writeSafetensors(path, [{ name: "attn.0", dtype: "F32", shape: [1, 2, 3], data: values }]);
    const expected = Buffer.concat([
      Buffer.from([64, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from('{"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}}'),
      values,
    ]);
    expect(Buffer.compare(readFileSync(path), expected)).toBe(0);
  });

  test("a header is padded with spaces to eight bytes", async () => {
    const path = join(folder, "attn0.safetensors");
    await writeSafetensors(path, [{ name: "attn0", dtype: "F32", shape: [1, 1, 2, 3], data: values }]);
    const expected = Buffer.concat([
      Buffer.from([72, 0, 0, 0, 0, 0, 0, 0]),
      Buffer.from('{"attn0":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[0,24]}}       '),
      values,
    ]);
    expect(Buffer.compare(readFileSync(path), expected)).toBe(0);
  });

  test("offsets count from the file's start after reading", async () => {
    const header = await readSafetensorsHeader(
      fileWith('{"test":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}', 16),
    );
    expect(header.tensors.get("test")).toEqual({ dtype: "I32", shape: [2, 2], begin: 68, end: 84 });
  });

  test("an empty file of tensors, a scalar and a tensor of no elements are sound", async () => {
    expect((await readSafetensorsHeader(fileWith("{}", 0))).tensors.size).toBe(0);
    const header = await readSafetensorsHeader(
      fileWith(
        '{"a":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2,0],"data_offsets":[8,8]}}',
        8,
      ),
    );
    expect([...header.tensors.keys()]).toEqual(["a", "b"]);
  });
});

describe("a lying header is refused with a sentence", () => {
  const many = (n: number, text: string) => Array.from({ length: n }, () => text).join("");
  const cases: [name: string, path: () => string, sentence: RegExp][] = [
    ["an empty file", () => save(new Uint8Array()), /ends after 0 bytes/],
    ["a file of five bytes", () => save(new Uint8Array(5)), /ends after 5 bytes/],
    [
      "a header longer than the file",
      () => fileWith(one({}), 16, 9999n),
      /claims 9999 bytes, but only 73 follow/,
    ],
    [
      "a header of 2^64-1 bytes",
      () => fileWith(one({}), 16, 2n ** 64n - 1n),
      /claims 18446744073709551615 bytes/,
    ],
    ["no header", () => fileWith("", 16), /shortest header has 2/],
    ["a header that is a list", () => fileWith("[1,2]", 0), /does not start with \{/],
    ["bad JSON", () => fileWith('{"w":', 0), /not JSON/],
    ["text after the header", () => fileWith("{} {}", 0), /not JSON/],
    ["invalid UTF-8", () => fileWith(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d), 0), /not JSON/],
    ["a deeply nested header", () => fileWith(`{"a":${many(300_000, "[")}`, 0), /not JSON/],
    ["a name twice", () => fileWith(`${one({}).slice(0, -1)},${one({}).slice(1)}`, 16), /names "w" twice/],
    [
      "a name twice, once escaped",
      () => fileWith(`${one({}).slice(0, -1)},${one({}).slice(1).replace('"w"', '"\\u0077"')}`, 16),
      /names "w" twice/,
    ],
    [
      "a field twice",
      () => fileWith(one({}).replace('"dtype"', '"dtype":"F64","dtype"'), 16),
      /names "dtype" twice/,
    ],
    ["a tensor that is a number", () => fileWith('{"w":1}', 0), /tensor "w" is not described/],
    ["an unknown dtype", () => fileWith(one({ dtype: "F33" }), 16), /unknown dtype "F33"/],
    ["a dtype of the prototype", () => fileWith(one({ dtype: "toString" }), 16), /unknown dtype "toString"/],
    ["no dtype", () => fileWith(one({ dtype: undefined }), 16), /unknown dtype nothing/],
    [
      "a negative size",
      () => fileWith(one({ shape: [-2, -2] }), 16),
      /shape that is not a list of whole numbers: \[-2,-2\]/,
    ],
    ["a fractional size", () => fileWith(one({ shape: [1.5, 2] }), 16), /shape that is not/],
    ["a size of 1e300", () => fileWith(one({}).replace("[2,2]", "[1e300,2]"), 16), /shape that is not/],
    ["a size as text", () => fileWith(one({ shape: ["2", 2] }), 16), /shape that is not/],
    ["a shape that is an object", () => fileWith(one({ shape: { length: 2 } }), 16), /shape that is not/],
    [
      "sizes whose product wraps to the right byte count in 64 bits",
      () => fileWith(one({ shape: [2 ** 33, 2 ** 33, 4] }), 16),
      /impossible size/,
    ],
    [
      "half a byte",
      () => fileWith(one({ dtype: "F4", shape: [3], data_offsets: [0, 2] }), 2),
      /impossible size/,
    ],
    [
      "a shape larger than its bytes",
      () => fileWith(one({ shape: [2, 3] }), 16),
      /has 16 bytes at \[0, 16\), but F32 of shape \[2,3\] takes 24/,
    ],
    ["offsets in reverse", () => fileWith(one({ data_offsets: [16, 0] }), 16), /has -16 bytes/],
    ["three offsets", () => fileWith(one({ data_offsets: [0, 16, 16] }), 16), /not two whole numbers/],
    ["a negative offset", () => fileWith(one({ data_offsets: [-16, 0] }), 16), /not two whole numbers/],
    ["an end beyond the file", () => fileWith(one({}), 15), /ends at byte 81, but the file has 80/],
    ["data that no tensor has", () => fileWith(one({}), 17), /tensors end at byte 81, but the file has 82/],
    [
      "offsets beyond what a number holds",
      () => fileWith(one({ data_offsets: [2 ** 53, 2 ** 53 + 16] }), 16),
      /not two whole numbers/,
    ],
    [
      "two tensors on the same bytes",
      () => fileWith(`${one({}).slice(0, -1)},"v":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}`, 24),
      /"v" overlaps/,
    ],
    [
      "a hole between tensors",
      () => fileWith(`${one({}).slice(0, -1)},"v":{"dtype":"F32","shape":[4],"data_offsets":[20,36]}}`, 36),
      /"v" leaves a hole of 4 bytes/,
    ],
    [
      "metadata that are no texts",
      () => fileWith('{"__metadata__":{"epoch":1}}', 0),
      /__metadata__ is not a table of texts/,
    ],
    [
      "metadata that are a list",
      () => fileWith('{"__metadata__":[]}', 0),
      /__metadata__ is not a table of texts/,
    ],
  ];
  for (const [name, path, sentence] of cases) {
    test(name, async () => expect(await refusal(path())).toMatch(sentence));
  }

  test("a header beyond 100 MB, in a file that is long enough", async () => {
    const path = save(new Uint8Array(8));
    const length = 100_000_001;
    const file = Bun.file(path);
    const handle = await import("node:fs/promises").then((fs) => fs.open(path, "r+"));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(length));
    await handle.write(prefix, 0, 8, 0);
    await handle.truncate(length + 8); // sparse
    await handle.close();
    expect(file.size).toBe(length + 8);
    expect(await refusal(path)).toMatch(/100000000 is the limit/);
  });

  test("a folder and a missing file", async () => {
    expect(await refusal(folder)).toMatch(/not a regular file/);
    expect(await refusal(join(folder, "none.safetensors"))).toMatch(/no such file/);
  });

  test("a message stays one short line whatever the names hold", async () => {
    const message = await refusal(fileWith(JSON.stringify({ [`\n\u202e${many(5000, "x")}`]: 1 }), 0));
    expect(message.length).toBeLessThan(400);
    expect(message).not.toMatch(/[\n\u202e]/);
  });
});

describe("mutations", () => {
  const tensors: TensorToWrite[] = [
    { name: "a.weight", dtype: "F32", shape: [3, 4], data: new Uint8Array(48) },
    { name: "b.weight", dtype: "BF16", shape: [5], data: new Uint8Array(10) },
    { name: "c", dtype: "I64", shape: [], data: new Uint8Array(8) },
  ];
  /** Mulberry32. */
  function randomFrom(seed: number): (limit: number) => number {
    let state = seed;
    return (limit) => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) % limit;
    };
  }

  test("of a sound file are read as sound or refused with a sentence, never anything else", async () => {
    const base = join(folder, "base.safetensors");
    await writeSafetensors(base, tensors, { format: "pt" });
    const sound = readFileSync(base);
    const random = randomFrom(1);
    const bits: Record<string, number> = {
      F32: 32,
      BF16: 16,
      I64: 64,
      U64: 64,
      F64: 64,
      F16: 16,
      I32: 32,
      U32: 32,
      I16: 16,
      U16: 16,
    };
    const alphabet = Buffer.from('0123456789-.eE{}[]":,\\uFI \0\xff', "latin1");
    let refused = 0;
    for (let round = 0; round < 800; round++) {
      let bytes: Uint8Array = Buffer.from(sound);
      for (let edit = random(3); edit >= 0; edit--) {
        const kind = random(4);
        if (kind === 0) bytes = bytes.subarray(0, random(bytes.length));
        else if (kind === 1) bytes = Buffer.concat([bytes, Buffer.alloc(1 + random(20))]);
        else if (bytes.length > 0)
          bytes[kind === 2 ? random(Math.min(bytes.length, 240)) : random(bytes.length)] =
            alphabet[random(alphabet.length)]!;
      }
      const path = save(bytes);
      const header = await readSafetensorsHeader(path).catch((error: unknown) => {
        if (!(error instanceof UsageError)) throw error;
        return null;
      });
      if (header === null) {
        refused++;
        continue;
      }
      let covered = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
      for (const { dtype, shape, begin, end } of [...header.tensors.values()].sort(
        (x, y) => x.begin - y.begin || x.end - y.end,
      )) {
        expect(begin).toBe(covered);
        expect((end - begin) * 8).toBe(shape.reduce((product, size) => product * size, 1) * bits[dtype]!);
        covered = end;
      }
      expect(covered).toBe(bytes.length);
    }
    expect(refused).toBeGreaterThan(500);
  });
});

describe("writing", () => {
  test("pieces, metadata and odd names come back as they went", async () => {
    const path = join(folder, "pieces.safetensors");
    const names = ["10", "2", "__proto__", "ünï", "a b"];
    const written = await writeSafetensors(
      path,
      names.map((name, i) => ({
        name,
        dtype: "U8",
        shape: [i, 2],
        *data() {
          for (let k = 0; k < i; k++) yield Uint8Array.of(i, k);
        },
      })),
      { format: "pt", __proto__x: "y" },
    );
    const { tensors, metadata } = await readSafetensorsHeader(path);
    const bytes = readFileSync(path);
    expect(written).toBe(bytes.length);
    expect(metadata).toEqual({ format: "pt", __proto__x: "y" });
    expect([...tensors.keys()].sort()).toEqual([...names].sort());
    const { begin, end } = tensors.get("ünï")!;
    expect([...bytes.subarray(begin, end)]).toEqual([3, 0, 3, 1, 3, 2]);
  });

  test("a tensor that gives fewer bytes than it announced leaves the old file and no other", async () => {
    const own = temporaryFolder("safetensors-broken");
    const path = join(own, "model.safetensors");
    writeFileSync(path, "old");
    const broken = writeSafetensors(path, [
      { name: "w", dtype: "F32", shape: [4], data: new Uint8Array(12) },
    ]);
    expect(await broken.catch((error: Error) => error.message)).toMatch(/announced 16 bytes and gave 12/);
    expect(readdirSync(own)).toEqual(["model.safetensors"]);
    expect(readFileSync(path, "utf8")).toBe("old");
  });

  test("two tensors of one name are refused", async () => {
    const twice = [1, 2].map(() => ({
      name: "w",
      dtype: "U8" as const,
      shape: [1],
      data: new Uint8Array(1),
    }));
    expect(
      await writeSafetensors(join(folder, "x.safetensors"), twice).catch((error: Error) => error.message),
    ).toMatch(/same name/);
  });
});

describe.skipIf(realFiles.length === 0)(
  "files written by Python (skipped where the reference models are not at hand)",
  () => {
    for (const path of [...realFiles, ...goldenFiles]) {
      test(`${path.slice(shared.length + 1)} is rewritten byte for byte`, async () => {
        const { tensors, metadata } = await readSafetensorsHeader(path);
        const bytes = readFileSync(path);
        const copy = join(folder, "copy.safetensors");
        const shuffled = [...tensors].reverse();
        await writeSafetensors(
          copy,
          shuffled.map(([name, t]) => ({ ...t, name, data: bytes.subarray(t.begin, t.end) })),
          metadata,
        );
        expect(Buffer.compare(readFileSync(copy), bytes)).toBe(0);
      });
    }
  },
);
