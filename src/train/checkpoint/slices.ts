/** The shards of a checkpoint: safetensors files that hold parts of logical tensors, and the table that says which.
 *  Always: the table in a file's metadata names each of its tensors; a tensor's elements are row-major, and a part is a
 *  range of them, so that any number of ranks finds what it needs in what any other number wrote. */
import { closeSync, openSync, readSync } from "node:fs";
import { z } from "zod";
import { readSafetensorsHeader, type SafetensorsDtype, writeSafetensors } from "../../model/safetensors.ts";
import type { Device } from "../../tensor/device.ts";
import { bytesOf, type DType, type Tensor } from "../../tensor/tensor.ts";
import { UsageError } from "../../util/errors.ts";
import { slice, type StateSlice } from "../flat_state.ts";

/** Bytes that go through the host at a time. */
const pieceBytes = 1 << 22;

const tableSchema = z.record(
  z.string(),
  z.strictObject({ shape: z.array(z.int().min(0)), begin: z.int().min(0), end: z.int().min(0) }),
);
type Table = z.infer<typeof tableSchema>;

const keyOf = ({ kind, name }: StateSlice): string => `${kind}/${name}`;

/** The low halves of split masters are bit patterns, not numbers. */
function fileType({ kind, tensor }: StateSlice): SafetensorsDtype {
  const types: Partial<Record<DType, SafetensorsDtype>> = { f32: "F32", bf16: "BF16", f64: "F64" };
  return kind === "low" ? "U16" : (types[tensor.dtype] as SafetensorsDtype);
}

/** Writes one rank's slices. `onPiece` runs before each piece after the first. Returns bytes and SHA-256 of the file. */
export async function writeShard(
  device: Device,
  path: string,
  slices: readonly StateSlice[],
  onPiece: () => void = () => {},
): Promise<{ bytes: number; sha256: string }> {
  const table: Table = Object.fromEntries(
    slices.map((part) => [keyOf(part), { shape: [...part.shape], begin: part.begin, end: part.end }]),
  );
  const hasher = new Bun.CryptoHasher("sha256");
  const scratch = new Uint8Array(pieceBytes);
  let pieces = 0;
  const tensors = slices.map((part) => ({
    name: keyOf(part),
    dtype: fileType(part),
    shape: [part.tensor.size],
    *data() {
      for (const piece of piecesOf(part.tensor)) {
        if (pieces++ > 0) onPiece();
        const bytes = scratch.subarray(0, piece.bytes);
        device.downloadTo(bytes, piece);
        yield bytes;
      }
    },
  }));
  const bytes = await writeSafetensors(path, tensors, { slices: JSON.stringify(table) }, (written) =>
    hasher.update(written),
  );
  return { bytes, sha256: hasher.digest("hex") };
}

function* piecesOf(tensor: Tensor): Generator<Tensor> {
  const most = pieceBytes / bytesOf[tensor.dtype];
  for (let at = 0; at < tensor.size; at += most) yield slice(tensor, at, Math.min(at + most, tensor.size));
}

/** The beginning of `scratch` as elements of the tensor's width. */
function elements({ buffer }: Uint8Array<ArrayBuffer>, { dtype, size }: Tensor) {
  const width = bytesOf[dtype];
  if (width === 2) return new Uint16Array(buffer, 0, size);
  return width === 4 ? new Float32Array(buffer, 0, size) : new Float64Array(buffer, 0, size);
}

/** A part of a logical tensor in a file. */
interface StoredSlice {
  file: string;
  /** Byte of the file where element `begin` lies. */
  at: number;
  dtype: SafetensorsDtype;
  shape: readonly number[];
  begin: number;
  end: number;
}

/** Where every part of every tensor lies. */
export type SliceIndex = Map<string, StoredSlice[]>;

export async function indexShards(files: readonly string[]): Promise<SliceIndex> {
  const index: SliceIndex = new Map();
  for (const file of files) {
    const { tensors, metadata } = await readSafetensorsHeader(file);
    const table = readTable(file, metadata.slices);
    for (const [key, { begin: at, dtype }] of tensors) {
      const entry = table[key];
      if (!entry) throw new UsageError(`${file}: its table of slices does not name ${key}.`);
      index.set(key, [...(index.get(key) ?? []), { file, at, dtype, ...entry }]);
    }
  }
  return index;
}

function readTable(file: string, text: string | undefined): Table {
  try {
    return tableSchema.parse(JSON.parse(text ?? ""));
  } catch {
    throw new UsageError(`${file} is no shard of a training checkpoint: it has no table of slices.`);
  }
}

/** Fills every slice from whatever files hold its elements. Throws UsageError where elements are missing or of another kind. */
export function readSlices(device: Device, index: SliceIndex, slices: Iterable<StateSlice>): void {
  const files = new OpenFiles();
  const scratch = new Uint8Array(pieceBytes);
  try {
    for (const wanted of slices) readSlice(device, index, wanted, files, scratch);
  } finally {
    files.close();
  }
}

function readSlice(
  device: Device,
  index: SliceIndex,
  wanted: StateSlice,
  files: OpenFiles,
  scratch: Uint8Array<ArrayBuffer>,
): void {
  const key = keyOf(wanted);
  const stored = index.get(key) ?? [];
  const width = bytesOf[wanted.tensor.dtype];
  let found = 0;
  for (const part of stored) {
    checkSame(key, wanted, part);
    const [begin, end] = [Math.max(part.begin, wanted.begin), Math.min(part.end, wanted.end)];
    if (begin >= end) continue;
    const target = slice(wanted.tensor, begin - wanted.begin, end - wanted.begin);
    let at = part.at + (begin - part.begin) * width;
    for (const piece of piecesOf(target)) {
      const bytes = scratch.subarray(0, piece.bytes);
      files.read(part.file, bytes, at);
      device.upload(piece, elements(scratch, piece));
      at += piece.bytes;
    }
    found += end - begin;
  }
  if (found !== wanted.end - wanted.begin)
    throw new UsageError(
      `The checkpoint holds ${found} of the elements ${wanted.begin} to ${wanted.end} of ${key}; it was made by another model or another kind of training.`,
    );
}

function checkSame(key: string, wanted: StateSlice, part: StoredSlice): void {
  const type = fileType(wanted);
  if (part.dtype !== type)
    throw new UsageError(
      `${part.file} holds ${key} as ${part.dtype} and this run needs ${type}: resume with the precision that the run began with.`,
    );
  if (part.shape.join() !== wanted.shape.join())
    throw new UsageError(
      `${part.file} holds ${key} with shape [${part.shape}] and the model has [${wanted.shape}].`,
    );
}

class OpenFiles {
  private readonly descriptors = new Map<string, number>();

  read(path: string, bytes: Uint8Array, position: number): void {
    let descriptor = this.descriptors.get(path);
    if (descriptor === undefined) this.descriptors.set(path, (descriptor = openSync(path, "r")));
    for (let done = 0; done < bytes.length;) {
      const read = readSync(descriptor, bytes, done, bytes.length - done, position + done);
      if (read === 0)
        throw new UsageError(`${path} ends at byte ${position + done}, in the middle of a tensor.`);
      done += read;
    }
  }

  close(): void {
    for (const descriptor of this.descriptors.values()) closeSync(descriptor);
  }
}
