/** Parameters in and out of the flat blocks: loaded from a checkpoint, made at random, read back for export.
 *  Always: a float32, bfloat16 or float16 source is taken exactly by float32 and by split masters. */
import type { Checkpoint } from "../model/checkpoint.ts";
import type { LlamaConfig } from "../model/config.ts";
import { type FlatParameter } from "../model/flat_layout.ts";
import type { SafetensorsDtype, TensorToWrite } from "../model/safetensors.ts";
import { checkNames, elementType, entryOf, parametersOf } from "../model/weights.ts";
import { Arena } from "../tensor/arena.ts";
import { float32ToBfloat16 } from "../tensor/convert.ts";
import { type Device, MappedFile } from "../tensor/device.ts";
import { bytesOf, Tensor } from "../tensor/tensor.ts";
import type { TrainOps } from "./ops.ts";
import { uniform } from "../util/rng.ts";
import { type BlockState, type FlatState, parameterView, slice } from "./flat_state.ts";
import { mixSeed } from "./random_place.ts";

const pieceElements = 1 << 20;

/** Fills the weights of `state` from the checkpoint. Throws UsageError naming what is missing or misshapen. */
export function loadParameters(
  ops: TrainOps,
  state: FlatState,
  checkpoint: Checkpoint,
  config: LlamaConfig,
  onProgress: (done: number, total: number) => void = () => {},
): void {
  const { layers, top, embedding } = parametersOf(config);
  checkNames(checkpoint, [...layers.flat(), ...top], embedding, config);
  const files = new Map<string, MappedFile>();
  const writer = new WeightWriter(ops, state);
  let done = 0;
  for (const block of state.blocks) {
    for (const parameter of block.layout.parameters) {
      const entry = entryOf(checkpoint, { name: parameter.name, shape: [...parameter.shape] });
      const file = files.get(entry.file) ?? MappedFile.open(ops.device, entry.file);
      files.set(entry.file, file);
      const source = new Tensor(file.data + entry.begin, parameter.shape, elementType(entry));
      writer.write(block, parameter, source);
      onProgress((done += parameter.size), state.layout.parameterCount);
    }
  }
  writer.close();
  for (const file of files.values()) file.close();
}

/** Fresh weights: matrices N(0, std^2), norms 1, biases 0, as transformers initialises LLaMA. */
export function initializeParameters(ops: TrainOps, state: FlatState, seed: number, std = 0.02): void {
  const writer = new WeightWriter(ops, state);
  let stream = 0;
  for (const block of state.blocks) {
    for (const parameter of block.layout.parameters) {
      if (parameter.shape.length === 1)
        writer.writeArray(
          block,
          parameter,
          new Float32Array(parameter.size).fill(parameter.name.endsWith(".bias") ? 0 : 1),
        );
      else writer.writeNormal(block, parameter, { std, seed: mixSeed(seed, stream++) >>> 0 });
    }
  }
  writer.close();
}

/** LoRA's start: A uniform in +-1/sqrt(K) (Kaiming, a = sqrt 5), B zero, as PEFT does it. */
export function initializeAdapters(ops: TrainOps, state: FlatState, seed: number): void {
  const writer = new WeightWriter(ops, state);
  let stream = 0;
  for (const block of state.blocks) {
    for (const parameter of block.layout.parameters) {
      const key = mixSeed(seed, 0x10aa, stream++) >>> 0;
      const bound = 1 / Math.sqrt(parameter.shape[1] as number);
      const isA = parameter.name.endsWith("lora_A.weight");
      const values = Float32Array.from({ length: parameter.size }, (_, i) =>
        isA ? (2 * uniform(key, i) - 1) * bound : 0,
      );
      writer.writeArray(block, parameter, values);
    }
  }
  writer.close();
}

/** Writes values into flat weights of any storage, in pieces through scratch of its own. */
export class WeightWriter {
  private readonly arena: Arena;
  private readonly staged: Tensor;
  private readonly low: Tensor;
  private readonly host: Tensor;

  constructor(
    private readonly ops: TrainOps,
    private readonly state: FlatState,
  ) {
    this.arena = new Arena(ops.device, "loading", pieceElements * (4 + 2 + 4) + 3 * 64);
    this.staged = this.arena.tensor([pieceElements], "f32");
    this.low = this.arena.tensor([pieceElements], "bf16");
    this.host = this.arena.tensor([pieceElements], "f32");
  }

  /** `source` has the parameter's elements in any element type. */
  write(block: BlockState, parameter: FlatParameter, source: Tensor): void {
    for (let at = 0; at < parameter.size; at += pieceElements) {
      const count = Math.min(pieceElements, parameter.size - at);
      this.piece(block, parameter.offset + at, slice(source.reshape([source.size]), at, at + count));
    }
  }

  writeArray(block: BlockState, parameter: FlatParameter, values: Float32Array): void {
    for (let at = 0; at < parameter.size; at += pieceElements) {
      const count = Math.min(pieceElements, parameter.size - at);
      const piece = this.host.rows(count);
      this.ops.device.upload(piece, values.subarray(at, at + count));
      this.piece(block, parameter.offset + at, piece);
    }
  }

  /** N(0, std^2) from the stream `seed`. */
  writeNormal(
    block: BlockState,
    parameter: FlatParameter,
    { std, seed }: { std: number; seed: number },
  ): void {
    for (let at = 0; at < parameter.size; at += pieceElements) {
      const piece = this.host.rows(Math.min(pieceElements, parameter.size - at));
      this.ops.fillNormal(piece, at, seed, std);
      this.piece(block, parameter.offset + at, piece);
    }
  }

  private piece(block: BlockState, begin: number, source: Tensor): void {
    const end = begin + source.size;
    if (this.state.stage < 3) return this.fill(block, slice(block.w, begin, end), begin, source);
    const [from, to] = [Math.max(begin, block.begin), Math.min(end, block.end)];
    if (from >= to) return;
    const w = slice(block.ownW, from - block.begin, to - block.begin);
    this.fill(block, w, from, slice(source, from - begin, to - begin));
  }

  /** w <- source, which begins at element `begin` of the block; the low halves of this rank's share with it. */
  private fill(block: BlockState, w: Tensor, begin: number, source: Tensor): void {
    const { ops } = this;
    if (!this.state.types.split || !block.low) return ops.forward.cast(w, source);
    const master = this.staged.rows(source.size);
    ops.forward.cast(master, source);
    const low = this.low.rows(source.size);
    ops.masterSplit(w, low, master);
    const [from, to] = [Math.max(begin, block.begin), Math.min(begin + source.size, block.end)];
    if (from >= to) return;
    const own = slice(block.low, from - block.begin, to - block.begin);
    ops.device.copy(own.data, low.data + (from - begin) * bytesOf.bf16, own.bytes);
  }

  close(): void {
    this.arena.close();
  }
}

/** The weights as tensors for safetensors, read piece by piece when they are written. bf16 rounds to nearest even. Split
 *  weights are written as the bfloat16 values that the model was trained with, or as their float32 masters: `low` then has
 *  the whole low halves of each block (by default the block's own, which are whole where one rank has all). */
export function exportTensors(
  device: Device,
  state: FlatState,
  dtype: "F32" | "BF16",
  low: readonly (Tensor | null)[] = state.blocks.map((block) => block.low),
): TensorToWrite[] {
  return state.blocks.flatMap((block, b) =>
    block.layout.parameters.map((parameter) => {
      const halves = dtype === "F32" ? low[b] : null;
      if (halves && halves.size !== block.layout.size)
        throw new Error(`${block.layout.name} is exported with a share of its low halves`);
      const weight = parameterView(block.w, parameter);
      return {
        name: parameter.name,
        dtype: dtype as SafetensorsDtype,
        shape: parameter.shape,
        data: () =>
          halves
            ? masterPieces(device, weight, parameterView(halves, parameter))
            : weightPieces(device, weight, dtype),
      };
    }),
  );
}

/** A split weight's float32 master as bytes, a few MiB at a time. */
function* masterPieces(device: Device, weight: Tensor, low: Tensor): Generator<Uint8Array> {
  const [w, halves] = [weight.reshape([weight.size]), low.reshape([low.size])];
  for (let at = 0; at < w.size; at += pieceElements) {
    const end = Math.min(at + pieceElements, w.size);
    const high = device.download(slice(w, at, end));
    const rest = device.download(slice(halves, at, end));
    // bits = ((w - (low >> 15)) << 16) | low, as koala.h has it
    const bits = Uint32Array.from(
      rest,
      (part, i) => ((((high[i] as number) - (part >> 15)) << 16) | part) >>> 0,
    );
    yield new Uint8Array(bits.buffer);
  }
}

/** A weight's bytes in a file's element type, a few MiB at a time. */
export function* weightPieces(device: Device, weight: Tensor, dtype: "F32" | "BF16"): Generator<Uint8Array> {
  const flat = weight.reshape([weight.size]);
  for (let at = 0; at < flat.size; at += pieceElements) {
    const raw = device.download(slice(flat, at, Math.min(at + pieceElements, flat.size)));
    yield encode(raw, dtype);
  }
}

function encode(raw: ReturnType<Device["download"]>, dtype: "F32" | "BF16"): Uint8Array {
  const bytes = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  if (raw instanceof Uint16Array) {
    if (dtype === "BF16") return bytes(raw);
    return bytes(Uint32Array.from(raw, (bits) => bits << 16));
  }
  const values = raw instanceof Float32Array ? raw : Float32Array.from(raw);
  return bytes(dtype === "BF16" ? float32ToBfloat16(values) : values);
}
