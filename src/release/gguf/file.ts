/** The GGUF container, version 3: metadata by typed keys, a table of tensors, then their bytes, each aligned to 32.
 *  Always: the file appears under its name only when it is whole. Source: ggml/docs/gguf.md. */
import { open, rename, rm } from "node:fs/promises";

export type GgufValue =
  | { type: "u32" | "i32" | "f32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "strings"; value: readonly string[] }
  | { type: "f32s" | "i32s"; value: readonly number[] };

/** Codes of ggml_type, with the elements and bytes of a block. */
export const tensorTypes = {
  F32: { code: 0, elements: 1, bytes: 4 },
  F16: { code: 1, elements: 1, bytes: 2 },
  Q8_0: { code: 8, elements: 32, bytes: 34 },
  BF16: { code: 30, elements: 1, bytes: 2 },
} as const;
export type GgufType = keyof typeof tensorTypes;

export interface GgufTensor {
  name: string;
  type: GgufType;
  /** Row-major, as everywhere here; GGUF writes it backwards. */
  shape: readonly number[];
  data: () => Promise<Uint8Array>;
}

const alignment = 32;
const valueTypes = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

export async function writeGguf(
  path: string,
  metadata: readonly [key: string, value: GgufValue][],
  tensors: readonly GgufTensor[],
  onTensor: (done: number) => void = () => {},
): Promise<number> {
  const head = new Bytes();
  head.ascii("GGUF").u32(3).u64(tensors.length).u64(metadata.length);
  for (const [key, value] of metadata) writeValue(head.text(key), value);
  let offset = 0;
  for (const { name, type, shape } of tensors) {
    head.text(name).u32(shape.length);
    for (const size of shape.toReversed()) head.u64(size);
    head.u32(tensorTypes[type].code).u64(offset);
    offset += aligned(tensorBytes(type, shape));
  }
  head.zeros(aligned(head.length) - head.length);
  const temporary = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  const file = await open(temporary, "wx");
  try {
    await file.writeFile(head.take());
    for (const [i, tensor] of tensors.entries()) {
      const bytes = await tensor.data();
      const expected = tensorBytes(tensor.type, tensor.shape);
      if (bytes.length !== expected)
        throw new Error(`${tensor.name} announced ${expected} bytes and gave ${bytes.length}`);
      await file.writeFile(bytes);
      await file.writeFile(new Uint8Array(aligned(bytes.length) - bytes.length));
      onTensor(i + 1);
    }
    await file.sync();
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file.close().catch(() => {}); // closed already where rename failed
    await rm(temporary, { force: true });
    throw error;
  }
  return Bun.file(path).size;
}

export function tensorBytes(type: GgufType, shape: readonly number[]): number {
  const { elements, bytes } = tensorTypes[type];
  return (shape.reduce((product, size) => product * size, 1) / elements) * bytes;
}

const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

function writeValue(to: Bytes, { type, value }: GgufValue): void {
  switch (type) {
    case "strings":
      to.u32(valueTypes.array).u32(valueTypes.string).u64(value.length);
      for (const text of value) to.text(text);
      return;
    case "f32s":
    case "i32s": {
      const item = type === "f32s" ? "f32" : "i32";
      to.u32(valueTypes.array).u32(valueTypes[item]).u64(value.length);
      for (const number of value) to[item](number);
      return;
    }
    case "bool":
      to.u32(valueTypes.bool).u8(value ? 1 : 0);
      return;
    case "string":
      to.u32(valueTypes.string).text(value);
      return;
    default:
      to.u32(valueTypes[type])[type](value);
  }
}

/** Little-endian numbers and texts, one after another. */
class Bytes {
  length = 0;
  private buffer = new Uint8Array(1 << 16);
  private view = new DataView(this.buffer.buffer);

  u8 = (value: number): this => this.put(1, (at) => this.view.setUint8(at, value));
  u32 = (value: number): this => this.put(4, (at) => this.view.setUint32(at, value, true));
  i32 = (value: number): this => this.put(4, (at) => this.view.setInt32(at, value, true));
  f32 = (value: number): this => this.put(4, (at) => this.view.setFloat32(at, value, true));
  u64 = (value: number): this => this.put(8, (at) => this.view.setBigUint64(at, BigInt(value), true));
  ascii = (text: string): this => this.raw(new TextEncoder().encode(text));
  zeros = (count: number): this => this.raw(new Uint8Array(count));

  text(text: string): this {
    const bytes = new TextEncoder().encode(text);
    return this.u64(bytes.length).raw(bytes);
  }

  take(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }

  private raw(bytes: Uint8Array): this {
    return this.put(bytes.length, (at) => this.buffer.set(bytes, at));
  }

  private put(count: number, write: (at: number) => void): this {
    if (this.length + count > this.buffer.length) {
      const larger = new Uint8Array(2 * (this.length + count));
      larger.set(this.take());
      this.buffer = larger;
      this.view = new DataView(larger.buffer);
    }
    write(this.length);
    this.length += count;
    return this;
  }
}
