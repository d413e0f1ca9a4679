/** The tensors of an EasyLM streaming checkpoint, found without loading it: one msgpack value after another, each a pair of
 *  the key path and the array as flax serialises it (extension 1: shape, type, bytes). No pickle is read.
 *  Source: EasyLM/checkpoint.py save_train_state_to_file, flax/serialization.py. */
import { basename } from "node:path";
import type { CheckpointTensor } from "../model/checkpoint.ts";
import type { SafetensorsDtype } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";
import { FileReader } from "./diff_file.ts";
import { elementBytes } from "./tensor_places.ts";

const dtypes: { [name: string]: SafetensorsDtype } = { float32: "F32", float16: "F16", bfloat16: "BF16" };
/** Key path, shape and type of an array take far less. */
const headBytes = 4096;

/** Key paths joined by dots, without a leading `params`. */
export async function easylmTensors(path: string): Promise<Map<string, CheckpointTensor>> {
  const reader = new FileReader();
  const { size } = Bun.file(path);
  if (!(await Bun.file(path).exists())) throw new UsageError(`There is no file ${path}.`);
  const tensors = new Map<string, CheckpointTensor>();
  try {
    for (let at = 0; at < size;) {
      const head = new Head(await reader.read(path, at, Math.min(headBytes, size - at)), path, at);
      const { name, tensor, next } = readEntry(head, path);
      if (next > size) throw head.fault(`tensor ${name} is cut short`);
      if (tensors.has(name)) throw head.fault(`tensor ${name} stands in it twice`);
      tensors.set(name, tensor);
      at = next;
    }
  } finally {
    await reader.close();
  }
  if (tensors.size === 0) throw new UsageError(`${basename(path)} is empty: it holds no tensors.`);
  return tensors;
}

function readEntry(head: Head, path: string): { name: string; tensor: CheckpointTensor; next: number } {
  if (head.array() !== 2) throw head.fault("an entry is no pair of key and value");
  const keys = Array.from({ length: head.array() }, () => head.text());
  const name = (keys[0] === "params" ? keys.slice(1) : keys).join(".");
  const bytes = head.binary();
  const next = head.position + bytes;
  if (head.extension() !== 1) throw head.fault(`${name} is no array`);
  if (head.array() !== 3) throw head.fault(`${name} is no array`);
  const shape = Array.from({ length: head.array() }, () => head.integer());
  const type = head.text();
  const dtype = dtypes[type];
  if (!dtype) throw head.fault(`tensor ${name} is of type ${type}`);
  const data = head.binary();
  const wanted = shape.reduce((product, size) => product * size, 1) * elementBytes(dtype);
  if (data !== wanted) throw head.fault(`tensor ${name} has ${data} bytes, not the ${wanted} of its shape`);
  return {
    name,
    tensor: { file: path, dtype, shape, begin: head.position, end: head.position + data },
    next,
  };
}

/** Reads msgpack's small values one after another. */
class Head {
  private at = 0;
  private readonly view: DataView;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly path: string,
    private readonly begin: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** In the file. */
  get position(): number {
    return this.begin + this.at;
  }

  array(): number {
    const type = this.u8();
    if (type >> 4 === 9) return type & 15;
    if (type === 0xdc) return this.u16();
    throw this.fault("it is no EasyLM stream");
  }

  text(): string {
    const type = this.u8();
    const length = type >> 5 === 5 ? type & 31 : type === 0xd9 ? this.u8() : type === 0xda ? this.u16() : -1;
    if (length < 0 || this.at + length > this.bytes.length) throw this.fault("it is no EasyLM stream");
    this.at += length;
    return new TextDecoder().decode(this.bytes.subarray(this.at - length, this.at));
  }

  /** Bytes that follow. */
  binary(): number {
    const type = this.u8();
    if (type === 0xc4) return this.u8();
    if (type === 0xc5) return this.u16();
    if (type === 0xc6) return this.u32();
    throw this.fault("it is no EasyLM stream");
  }

  /** The extension's type; its length is the value's. */
  extension(): number {
    const type = this.u8();
    if (type === 0xc7) this.u8();
    else if (type === 0xc8) this.u16();
    else if (type === 0xc9) this.u32();
    else if (type < 0xd4 || type > 0xd8)
      throw this.fault("arrays beyond 1 GiB come in pieces, which are not read");
    return this.u8();
  }

  integer(): number {
    const type = this.u8();
    if (type < 128) return type;
    if (type === 0xcc) return this.u8();
    if (type === 0xcd) return this.u16();
    if (type === 0xce) return this.u32();
    throw this.fault("a shape is no list of numbers");
  }

  fault(why: string): UsageError {
    return new UsageError(
      `${basename(this.path)} cannot be read as an EasyLM checkpoint: at byte ${this.begin}, ${why}.`,
    );
  }

  private u8 = (): number => this.view.getUint8(this.need(1));
  private u16 = (): number => this.view.getUint16(this.need(2));
  private u32 = (): number => this.view.getUint32(this.need(4));

  private need(count: number): number {
    if (this.at + count > this.bytes.length) throw this.fault("it is cut short");
    this.at += count;
    return this.at - count;
  }
}
