/** Headers of model.safetensors that lie. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

export interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}
/** Rewrites the header of model.safetensors; the tensors' bytes stay. */
export const header =
  (change: (tensors: Record<string, Entry>) => void, lengthError = 0) =>
  async (directory: string) => {
    const path = join(directory, "model.safetensors");
    const bytes = await readFile(path);
    const length = Number(bytes.readBigUInt64LE(0));
    const tensors = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<string, Entry>;
    change(tensors);
    const json = Buffer.from(JSON.stringify(tensors));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(json.length + lengthError));
    await writeFile(path, Buffer.concat([prefix, json, bytes.subarray(8 + length)]));
  };
