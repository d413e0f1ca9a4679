import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readSafetensorsHeader } from "../../../src/model/safetensors.ts";
import { Arena } from "../../../src/tensor/arena.ts";
import { SoloCommunicator } from "../../../src/tensor/communicator.ts";
import { Checkpoints, latestStep, readState } from "../../../src/train/checkpoint/checkpoints.ts";
import type { StateSlice } from "../../../src/train/flat_state.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { device } from "../support.ts";

const arena = new Arena(device, "test", 64 << 20);
/** More than one piece of 4 MiB. */
const N = (3 << 20) / 2 + 5;
const values = Float32Array.from({ length: N }, (_, i) => Math.fround(Math.sin(i)));

type Kind = StateSlice["kind"];

/** Elements [begin, end) of a parameter "p" of N elements. */
function part(kind: Kind, begin: number, end: number, fill = true): StateSlice {
  const tensor = arena.tensor([end - begin], kind === "low" ? "bf16" : "f32");
  if (fill && kind === "low")
    device.upload(
      tensor,
      Uint16Array.from({ length: end - begin }, (_, i) => begin + i),
    );
  else if (fill) device.upload(tensor, values.subarray(begin, end));
  return { kind, name: "p", shape: [N], begin, end, block: 0, tensor };
}

const newCheckpoints = (keep = 0, directory = join(temporaryFolder("checkpoints"), "run")) =>
  new Checkpoints(directory, device, new SoloCommunicator(device), keep);

describe("a checkpoint", () => {
  test("gives back any range of what was saved, in bits", async () => {
    const checkpoints = newCheckpoints();
    await checkpoints.save({ step: 3, seed: 9 }, [part("w", 0, N), part("m", 0, N), part("low", 100, 200)]);
    const wanted = [part("m", 7, 20, false), part("w", 5, N - 1, false), part("low", 150, 160, false)];
    expect(await checkpoints.load(3, wanted)).toEqual({ step: 3, seed: 9 });
    expect(device.download(wanted[0]!.tensor)).toEqual(values.slice(7, 20));
    expect(Bun.hash(device.download(wanted[1]!.tensor).buffer)).toBe(Bun.hash(values.slice(5, N - 1).buffer));
    expect(device.download(wanted[2]!.tensor)).toEqual(Uint16Array.from({ length: 10 }, (_, i) => 150 + i));
  });

  test("consists of safetensors, state and a manifest whose hashes sha256sum agrees with", async () => {
    const checkpoints = newCheckpoints();
    const directory = await checkpoints.save({ step: 12 }, [part("w", 10, 20)]);
    const shard = join(directory, "rank-00000-of-00001.safetensors");
    const { tensors, metadata } = await readSafetensorsHeader(shard);
    expect([...tensors].map(([name, { dtype, shape }]) => [name, dtype, shape])).toEqual([
      ["w/p", "F32", [10]],
    ]);
    expect(JSON.parse(metadata.slices!)).toEqual({ "w/p": { shape: [N], begin: 10, end: 20 } });
    const manifest = JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8"));
    expect(manifest).toMatchObject({ format: "koala-training-checkpoint-1", step: 12, world: 1 });
    for (const [name, { bytes, sha256 }] of Object.entries<{ bytes: number; sha256: string }>(
      manifest.files,
    )) {
      const file = readFileSync(join(directory, name));
      expect([file.length, new Bun.CryptoHasher("sha256").update(file).digest("hex")]).toEqual([
        bytes,
        sha256,
      ]);
    }
    expect(Object.keys(manifest.files).sort()).toEqual(
      readdirSync(directory)
        .filter((name) => name !== "manifest.json")
        .sort(),
    );
    expect(readFileSync(join(checkpoints.directory, "latest"), "utf8")).toBe("step-000012\n");
  });

  test("that was never finished is none, and its remains go with the next save", async () => {
    const checkpoints = newCheckpoints();
    const { directory } = checkpoints;
    expect(latestStep(directory)).toBeNull();
    await checkpoints.save({ step: 2 }, [part("w", 0, 5)]);
    for (const name of ["step-000004.tmp", "step-000006"]) {
      mkdirSync(join(directory, name));
      writeFileSync(join(directory, name, "rank-00000-of-00001.safetensors"), "half");
    }
    expect(latestStep(directory)).toBe(2);
    await checkpoints.save({ step: 6 }, [part("w", 0, 5)]);
    expect(readdirSync(directory).sort()).toEqual(["latest", "step-000002", "step-000006"]);
    expect(latestStep(directory)).toBe(6);
  });

  test("makes room for itself: only the last ones are kept", async () => {
    const checkpoints = newCheckpoints(2);
    for (const step of [1, 2, 3, 10]) await checkpoints.save({ step }, [part("w", 0, 5)]);
    expect(readdirSync(checkpoints.directory).sort()).toEqual(["latest", "step-000003", "step-000010"]);
  });
});

describe("loading refuses", () => {
  const refuse = async (checkpoints: Checkpoints, wanted: StateSlice[], sentence: string) => {
    const loading = checkpoints.load(1, wanted);
    await expect(loading).rejects.toThrow(sentence);
  };

  test("what the checkpoint does not hold", async () => {
    const checkpoints = newCheckpoints();
    await checkpoints.save({ step: 1 }, [part("w", 0, 50)]);
    await refuse(
      checkpoints,
      [part("w", 40, 60, false)],
      "The checkpoint holds 10 of the elements 40 to 60 of w/p;",
    );
    await refuse(
      checkpoints,
      [part("v", 0, 5, false)],
      "The checkpoint holds 0 of the elements 0 to 5 of v/p;",
    );
    const other = { ...part("w", 0, 5, false), shape: [4, 4] };
    await refuse(checkpoints, [other], `holds w/p with shape [${N}] and the model has [4,4].`);
    const half = { ...part("w", 0, 5, false), tensor: arena.tensor([5], "bf16") };
    await refuse(checkpoints, [half], "holds w/p as F32 and this run needs BF16");
  });

  test("a state or a manifest that was changed", async () => {
    const checkpoints = newCheckpoints();
    const directory = await checkpoints.save({ step: 1, seed: 1 }, [part("w", 0, 5)]);
    const state = join(directory, "state.json");
    writeFileSync(state, readFileSync(state, "utf8").replace('"seed": 1', '"seed": 2'));
    await refuse(checkpoints, [], "is damaged: the content of state.json is not what was written.");
    expect(() => readState(directory)).toThrow("the content of state.json is not what was written");
    writeFileSync(join(directory, "manifest.json"), "{");
    await refuse(checkpoints, [], "is damaged: manifest.json cannot be read");
    expect(existsSync(directory)).toBe(true);
  });
});
