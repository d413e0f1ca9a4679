/** Reads golden.safetensors and golden.json of a family: what PyTorch and transformers computed. */
import { join } from "node:path";
import { readSafetensorsHeader } from "../../src/model/safetensors.ts";
import { familyDirectory } from "./paths.ts";

export interface Golden {
  json: { loglikelihood: number[]; loss: number; packed: { loss: number } };
  /** Rows of token ids. */
  ids(name: string): number[][];
  floats(name: string): { shape: readonly number[]; values: Float32Array };
}

export async function readGolden(family: string): Promise<Golden> {
  const path = join(familyDirectory(family), "golden.safetensors");
  const bytes = new Uint8Array(await Bun.file(path).arrayBuffer());
  const { tensors } = await readSafetensorsHeader(path);
  const entry = (name: string) => {
    const found = tensors.get(name);
    if (!found) throw new Error(`${path} has no tensor ${name}`);
    return { ...found, data: bytes.slice(found.begin, found.end).buffer };
  };
  return {
    json: await Bun.file(join(familyDirectory(family), "golden.json")).json(),
    ids: (name) => {
      const { shape, data } = entry(name);
      const flat = Array.from(new BigInt64Array(data), Number);
      const width = shape[1] as number;
      return Array.from({ length: shape[0] as number }, (_, row) =>
        flat.slice(row * width, (row + 1) * width),
      );
    },
    floats: (name) => {
      const { shape, data } = entry(name);
      return { shape, values: new Float32Array(data) };
    },
  };
}

export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < b.length; i++) {
    ab += (a[i] as number) * (b[i] as number);
    aa += (a[i] as number) ** 2;
    bb += (b[i] as number) ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}

/** The largest difference of two numbers at one place. */
export const farthest = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
