/** The tensors of a file that `torch.save` wrote (PyTorch 1.6 and later: a zip archive), found without running its pickle.
 *  Always: every tensor lies inside the file, in row-major order; whatever else a file holds is refused with a sentence. */
import { basename } from "node:path";
import type { CheckpointTensor } from "../model/checkpoint.ts";
import type { SafetensorsDtype } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";
import { type Pickled, PickleFault, type PickledTensor, readPickle } from "./pickle.ts";
import { elementBytes } from "./tensor_places.ts";
import { readZipDirectory } from "./zip.ts";

const dtypes: { [storage: string]: SafetensorsDtype } = {
  FloatStorage: "F32",
  DoubleStorage: "F64",
  HalfStorage: "F16",
  BFloat16Storage: "BF16",
  LongStorage: "I64",
  IntStorage: "I32",
  ShortStorage: "I16",
  CharStorage: "I8",
  ByteStorage: "U8",
  BoolStorage: "BOOL",
};

export async function torchTensors(path: string): Promise<Map<string, CheckpointTensor>> {
  const entries = await readZipDirectory(path);
  const pickle = [...entries].find(([name]) => name.endsWith("/data.pkl"));
  if (!pickle) throw unreadable(path, "it holds no data.pkl, so torch.save did not write it");
  const [pickleName, place] = pickle;
  const root = pickleName.slice(0, -"data.pkl".length);
  const order = entries.get(`${root}byteorder`);
  if (order && (await text(path, order)) !== "little") throw unreadable(path, "its numbers are big-endian");
  let value: Pickled;
  try {
    value = readPickle(await Bun.file(path).slice(place.begin, place.end).bytes());
  } catch (error) {
    if (error instanceof PickleFault) throw unreadable(path, error.message);
    throw error;
  }
  const tensors = new Map<string, CheckpointTensor>();
  for (const [name, tensor] of stateOf(value, path)) {
    const storage = entries.get(`${root}data/${tensor.storage.key}`);
    if (!storage) throw unreadable(path, `the numbers of tensor ${name} are missing`);
    tensors.set(name, placed(name, tensor, storage, path));
  }
  return tensors;
}

/** The dict of tensors; under state_dict, model or module, as training programs nest it. */
function stateOf(value: Pickled, path: string): [string, PickledTensor][] {
  if (!(value instanceof Map)) throw unreadable(path, "it is no dict of tensors");
  const tensors = [...value].filter(
    (entry): entry is [string, PickledTensor] => typeof entry[0] === "string" && isTensor(entry[1]),
  );
  if (tensors.length > 0) return tensors;
  for (const key of ["state_dict", "model", "module"]) {
    const inner = value.get(key);
    if (inner instanceof Map) return stateOf(inner, path);
  }
  throw unreadable(path, "it holds no tensors");
}

const isTensor = (value: Pickled): value is PickledTensor =>
  typeof value === "object" && value !== null && "kind" in value && value.kind === "tensor";

function placed(
  name: string,
  { storage, offset, shape, strides }: PickledTensor,
  place: { begin: number; end: number },
  path: string,
): CheckpointTensor {
  const dtype = dtypes[storage.type];
  if (!dtype) throw unreadable(path, `tensor ${name} is of type ${storage.type}`);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis]! > 1 && strides[axis] !== step)
      throw unreadable(path, `tensor ${name} is a view that is not row-major; save it with .contiguous()`);
    step *= shape[axis]!;
  }
  const width = elementBytes(dtype);
  const begin = place.begin + offset * width;
  const end = begin + step * width;
  if (!(end <= place.end)) throw unreadable(path, `tensor ${name} reaches beyond its storage`);
  return { file: path, dtype, shape, begin, end };
}

const text = async (path: string, { begin, end }: { begin: number; end: number }): Promise<string> =>
  (
    await Bun.file(path)
      .slice(begin, Math.min(end, begin + 64))
      .text()
  ).trim();

const unreadable = (path: string, why: string): UsageError =>
  new UsageError(`${basename(path)} cannot be read as PyTorch weights: ${why}. Nothing in it was run.`);
