import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { convertCheckpoint } from "../../src/model/convert_checkpoint.ts";
import { familyDirectory } from "../support/paths.ts";

async function inTemporaryFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "koala-convert-"));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test("bfloat16 in several shards keeps every tensor within half a unit of its last place", () =>
  inTemporaryFolder(async (folder) => {
    const source = familyDirectory("llama-mha");
    const [small, back] = [join(folder, "small"), join(folder, "back")];
    await convertCheckpoint(source, small, { dtype: "BF16", shardBytesMax: 100_000 });
    await convertCheckpoint(small, back, { dtype: "F32", shardBytesMax: 2 ** 40 });
    const [before, between, after] = await Promise.all([
      openCheckpoint(source),
      openCheckpoint(small),
      openCheckpoint(back),
    ]);
    expect(between.files.length).toBeGreaterThan(2);
    expect([...after.tensors.keys()].sort()).toEqual([...before.tensors.keys()].sort());
    for (const [name, tensor] of before.tensors) {
      const read = async (t: typeof tensor) =>
        new Float32Array(await Bun.file(t.file).slice(t.begin, t.end).arrayBuffer());
      const rounded = await read(after.tensors.get(name) as typeof tensor);
      (await read(tensor)).forEach((value, i) => {
        // bfloat16 keeps 8 significant bits.
        expect(Math.abs((rounded[i] as number) - value)).toBeLessThanOrEqual(Math.abs(value) * 2 ** -8);
      });
    }
  }));

test("a target that holds something is refused before anything is written", () =>
  inTemporaryFolder(async (folder) => {
    await Bun.write(join(folder, "precious"), "data");
    const attempt = convertCheckpoint(familyDirectory("llama-mha"), folder, {
      dtype: "F32",
      shardBytesMax: 2 ** 40,
    });
    await expect(attempt).rejects.toThrow(`${folder} is not empty`);
  }));
