/** The parameters of a LLaMA-family model: their Hugging Face names and shapes, and how they become packed matrices.
 *  `parametersOf` is the one list; loading, checking (and later training and export) read it. */
import { aligned, Arena } from "../tensor/arena.ts";
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16 } from "../tensor/convert.ts";
import { type Device, MappedFile } from "../tensor/device.ts";
import { bytesOf, type DType, type PackedMatrix, Tensor, type WeightType } from "../tensor/tensor.ts";
import { UsageError } from "../util/errors.ts";
import type { Checkpoint, CheckpointTensor } from "./checkpoint.ts";
import { packColumns } from "./column_slice.ts";
import type { LlamaConfig } from "./config.ts";

export interface Block {
  attentionNorm: Tensor;
  qkv: PackedMatrix;
  qkvBias: Tensor | null;
  queryNorm: Tensor | null;
  keyNorm: Tensor | null;
  output: PackedMatrix;
  outputBias: Tensor | null;
  mlpNorm: Tensor;
  gateUp: PackedMatrix;
  gateUpBias: Tensor | null;
  down: PackedMatrix;
  downBias: Tensor | null;
}

export interface LlamaWeights {
  /** Read from the mapped file, in the file's own type. */
  embedding: Tensor;
  blocks: Block[];
  norm: Tensor;
  head: PackedMatrix;
  activationType: DType;
  parameterCount: number;
  /** Bytes of packed weights on the device, the mapped embedding not counted. */
  bytes: number;
  close(): void;
}

/** What flows between the ops; norm weights and biases have its type too. */
type ActivationType = Extract<DType, "f32" | "bf16" | "f64">;

/** Weights computed in: float32, bfloat16, int8 or int4, or float64 for checks. */
export type ComputeType = Extract<WeightType, "f32" | "bf16" | "f64" | "q8" | "q4">;

/** A parameter as the checkpoint names it, with the shape it must have. */
export interface Part {
  name: string;
  shape: number[];
}

/** A matrix made of parts stacked by rows (q, k and v; gate and up), or a vector made of parts laid end to end. */
export type Parameter = { key: string } & (
  { matrix: Part[]; N: number; K: number } | { vector: Part[]; size: number }
);

/** Every parameter of a model. Where embeddings are tied, `top` names the embedding as the head. */
export interface ModelParameters {
  embedding: Part;
  layers: Parameter[][];
  top: Parameter[];
}

export const parametersOf = (config: LlamaConfig): ModelParameters => ({
  embedding: { name: "model.embed_tokens.weight", shape: [config.vocabularySize, config.hiddenSize] },
  layers: Array.from({ length: config.layerCount }, (_, layer) => blockParameters(config, layer)),
  top: topParameters(config),
});

/** Opens every parameter of `checkpoint` on the device. Throws UsageError naming what is missing or misshapen. */
export function loadWeights(
  device: Device,
  checkpoint: Checkpoint,
  config: LlamaConfig,
  compute: ComputeType,
  onProgress: (done: number, total: number) => void = () => {},
  { layers, top, embedding: embeddingPart } = parametersOf(config),
): LlamaWeights {
  const parameters = [...layers.flat(), ...top];
  checkNames(checkpoint, parameters, embeddingPart, config);
  checkBlocks(checkpoint, parameters, compute);
  const activationType = activationTypeOf(device, compute);
  const arena = new Arena(device, "weights", sizeOf(device, parameters, compute, activationType));
  const files = new MappedFiles(device);
  const load = new Loader(arena, files, checkpoint, compute, activationType, onProgress, parameters);
  const blocks = layers.map((list) => load.all(list) as unknown as Block);
  const rest = load.all(top) as unknown as { norm: Tensor; head: PackedMatrix };
  files.close();
  const { embedding, kept } = openEmbedding(device, checkpoint, embeddingPart);
  return {
    embedding,
    blocks,
    ...rest,
    activationType,
    parameterCount: countParameters(parameters, embeddingPart, config),
    bytes: arena.used,
    close: () => {
      kept.close();
      arena.close();
    },
  };
}

/** Element type of activations over matrices of type `compute`. GPUs keep bfloat16 beside all that is narrower than float32:
 *  products round their inputs to it anyway, and every other op is bound by memory. The CPU's kernels are made for float32. */
export function activationTypeOf(device: Pick<Device, "readsHostMemory">, compute: string): ActivationType {
  if (compute === "f64" || compute === "f32") return compute;
  return device.readsHostMemory ? "f32" : "bf16";
}

/** The table as it is stored: the mapped file itself, or a copy where the device cannot read that. */
function openEmbedding(
  device: Device,
  checkpoint: Checkpoint,
  part: Part,
): { embedding: Tensor; kept: { close(): void } } {
  const entry = entryOf(checkpoint, part);
  const mapped = MappedFile.open(device, entry.file);
  const table = new Tensor(mapped.data + entry.begin, part.shape, elementType(entry));
  if (device.readsHostMemory) return { embedding: table, kept: mapped };
  const arena = new Arena(device, "embedding", aligned(table.bytes));
  const embedding = arena.tensor(part.shape, table.dtype);
  device.copy(embedding.data, table.data, table.bytes);
  mapped.close();
  return { embedding, kept: arena };
}

function blockParameters(config: LlamaConfig, layer: number): Parameter[] {
  const { hiddenSize: D, intermediateSize: F, headCount: H, keyValueHeadCount: G, headDim: E, bias } = config;
  const at = (name: string, ...shape: number[]): Part => ({ name: `model.layers.${layer}.${name}`, shape });
  const matrix = (key: string, K: number, ...parts: [name: string, rows: number][]): Parameter => ({
    key,
    matrix: parts.map(([name, rows]) => at(`${name}.weight`, rows, K)),
    N: parts.reduce((sum, [, rows]) => sum + rows, 0),
    K,
  });
  const vector = (key: string, ...parts: [name: string, size: number][]): Parameter => ({
    key,
    vector: parts.map(([name, size]) => at(name, size)),
    size: parts.reduce((sum, [, size]) => sum + size, 0),
  });
  const qkv: [string, number][] = [
    ["self_attn.q_proj", H * E],
    ["self_attn.k_proj", G * E],
    ["self_attn.v_proj", G * E],
  ];
  const mlp: [string, number][] = [
    ["mlp.gate_proj", F],
    ["mlp.up_proj", F],
  ];
  const biases = (parts: [string, number][]) =>
    parts.map(([name, size]): [string, number] => [`${name}.bias`, size]);
  return [
    vector("attentionNorm", ["input_layernorm.weight", D]),
    matrix("qkv", D, ...qkv),
    ...(bias.qkv ? [vector("qkvBias", ...biases(qkv))] : []),
    ...(config.qkNorm
      ? [
          vector("queryNorm", ["self_attn.q_norm.weight", E]),
          vector("keyNorm", ["self_attn.k_norm.weight", E]),
        ]
      : []),
    matrix("output", H * E, ["self_attn.o_proj", D]),
    ...(bias.output ? [vector("outputBias", ["self_attn.o_proj.bias", D])] : []),
    vector("mlpNorm", ["post_attention_layernorm.weight", D]),
    matrix("gateUp", D, ...mlp),
    ...(bias.mlp
      ? [vector("gateUpBias", ...biases(mlp)), vector("downBias", ["mlp.down_proj.bias", D])]
      : []),
    matrix("down", F, ["mlp.down_proj", D]),
  ];
}

function topParameters(config: LlamaConfig): Parameter[] {
  const { vocabularySize: V, hiddenSize: D } = config;
  const head = config.tieEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  return [
    { key: "norm", vector: [{ name: "model.norm.weight", shape: [D] }], size: D },
    { key: "head", matrix: [{ name: head, shape: [V, D] }], N: V, K: D },
  ];
}

export const partsOf = (parameter: Parameter): Part[] =>
  "matrix" in parameter ? parameter.matrix : parameter.vector;

/** Nothing missing, nothing left over that the model would need, nothing of another shape: before memory is reserved. */
export function checkNames(
  checkpoint: Checkpoint,
  parameters: Parameter[],
  embedding: Part,
  config: LlamaConfig,
): void {
  const wanted = new Set([...parameters.flatMap(partsOf), embedding].map((part) => part.name));
  const missing = [...wanted].filter((name) => !checkpoint.tensors.has(name));
  if (missing.length > 0) {
    throw new UsageError(
      `${checkpoint.directory}: ${missing.length} tensors of this ${config.family} model are missing, the first is ${missing[0]}.`,
    );
  }
  const ignorable = (name: string) =>
    name.endsWith(".rotary_emb.inv_freq") || (config.tieEmbeddings && name === "lm_head.weight");
  const unknown = [...checkpoint.tensors.keys()].find((name) => !wanted.has(name) && !ignorable(name));
  if (unknown !== undefined) {
    throw new UsageError(
      `${checkpoint.directory}: tensor ${unknown} has no place in a ${config.family} model of ${config.layerCount} layers; config.json and weights do not belong together.`,
    );
  }
  for (const part of [...parameters.flatMap(partsOf), embedding]) elementType(entryOf(checkpoint, part));
}

/** Rows of quantised matrices are whole blocks of 32 elements: before memory is reserved. */
function checkBlocks(checkpoint: Checkpoint, parameters: Parameter[], compute: ComputeType): void {
  if (compute !== "q8" && compute !== "q4") return;
  const odd = parameters.flatMap((p) => ("matrix" in p && p.K % 32 !== 0 ? p.matrix.slice(0, 1) : []))[0];
  if (odd === undefined) return;
  const { columns, shape } = entryOf(checkpoint, odd);
  const rows = columns === undefined ? "" : `, of which each rank has ${shape[1]}`;
  const fewer = columns === undefined ? "" : " or a smaller --tensor-parallel";
  throw new UsageError(
    `${checkpoint.directory}: ${odd.name} has rows of ${columns?.of ?? shape[1]} elements${rows}; ${compute === "q8" ? "int8" : "int4"} weights have a scale for every 32, so rows must be a multiple of 32. Choose --dtype bfloat16${fewer}.`,
  );
}

function sizeOf(device: Device, parameters: Parameter[], compute: ComputeType, activations: DType): number {
  const bytes = (p: Parameter) =>
    "matrix" in p ? device.packBytes(p.N, p.K, compute) : p.size * bytesOf[activations];
  return parameters.reduce((sum, parameter) => sum + aligned(bytes(parameter)), 0);
}

/** Parameters of a whole model. */
export function countModel(config: LlamaConfig): number {
  const { layers, top, embedding } = parametersOf(config);
  return countParameters([...layers.flat(), ...top], embedding, config);
}

function countParameters(parameters: Parameter[], embedding: Part, config: LlamaConfig): number {
  const parts = [...parameters.flatMap(partsOf), ...(config.tieEmbeddings ? [] : [embedding])];
  return parts.reduce((sum, part) => sum + part.shape.reduce((a, b) => a * b, 1), 0);
}

/** The entry of a part, its shape and type checked. */
export function entryOf(checkpoint: Checkpoint, part: Part): CheckpointTensor {
  const entry = checkpoint.tensors.get(part.name);
  if (!entry) throw new UsageError(`${checkpoint.directory}: tensor ${part.name} is missing.`);
  if (entry.shape.length !== part.shape.length || entry.shape.some((length, i) => length !== part.shape[i])) {
    throw new UsageError(
      `${entry.file}: tensor ${part.name} has shape [${entry.shape}], config.json asks for [${part.shape}].`,
    );
  }
  return entry;
}

export function elementType(entry: CheckpointTensor): DType {
  const types: Record<string, DType> = { F32: "f32", BF16: "bf16", F16: "f16", F64: "f64" };
  const type = types[entry.dtype];
  if (!type)
    throw new UsageError(
      `${entry.file} holds weights of element type ${entry.dtype}; supported are F32, BF16, F16, F64.`,
    );
  return type;
}

/** Shards mapped while loading; unmapped at its end, so that only the embedding's pages stay. */
class MappedFiles {
  private readonly open = new Map<string, MappedFile>();
  constructor(private readonly device: Device) {}

  get(path: string): MappedFile {
    let file = this.open.get(path);
    if (!file) {
      file = MappedFile.open(this.device, path);
      this.open.set(path, file);
    }
    return file;
  }

  close(): void {
    for (const file of this.open.values()) file.close();
  }
}

/** Fills the arena, parameter by parameter. */
class Loader {
  private doneBytes = 0;
  private readonly totalBytes: number;

  constructor(
    private readonly arena: Arena,
    private readonly files: MappedFiles,
    private readonly checkpoint: Checkpoint,
    private readonly compute: ComputeType,
    private readonly activations: ActivationType,
    private readonly onProgress: (done: number, total: number) => void,
    parameters: Parameter[],
  ) {
    const entries = parameters.flatMap(partsOf).map((part) => entryOf(checkpoint, part));
    this.totalBytes = entries.reduce((sum, entry) => sum + entry.end - entry.begin, 0);
  }

  /** The parameters by key; optional ones that are absent are null. */
  all(parameters: Parameter[]): Record<string, Tensor | PackedMatrix | null> {
    const absent = {
      qkvBias: null,
      queryNorm: null,
      keyNorm: null,
      outputBias: null,
      gateUpBias: null,
      downBias: null,
    };
    return {
      ...absent,
      ...Object.fromEntries(parameters.map((p) => [p.key, "matrix" in p ? this.matrix(p) : this.vector(p)])),
    };
  }

  private matrix(p: { matrix: Part[]; N: number; K: number }): PackedMatrix {
    const packed = this.arena.packed(p.N, p.K, this.compute);
    let row = 0;
    for (const part of p.matrix) {
      const entry = entryOf(this.checkpoint, part);
      const rows = part.shape[0] as number;
      const { columns } = entry;
      if (columns)
        packColumns(this.arena.device, packed, row, this.files.get(entry.file), {
          ...entry,
          columns,
          type: elementType(entry),
        });
      else
        this.arena.device.pack(
          packed,
          this.files.get(entry.file).data + entry.begin,
          row,
          rows,
          elementType(entry),
        );
      row += rows;
      this.progress(entry);
    }
    return packed;
  }

  private vector(p: { vector: Part[]; size: number }): Tensor {
    const tensor = this.arena.tensor([p.size], this.activations);
    const values = this.activations === "f64" ? new Float64Array(p.size) : new Float32Array(p.size);
    let offset = 0;
    for (const part of p.vector) {
      const entry = entryOf(this.checkpoint, part);
      const bytes = this.files.get(entry.file).view(entry.begin, entry.end).slice();
      values.set(toFloats(bytes, elementType(entry)), offset);
      offset += part.shape[0] as number;
      this.progress(entry);
    }
    this.arena.device.upload(
      tensor,
      this.activations === "bf16" ? float32ToBfloat16(values as Float32Array) : values,
    );
    return tensor;
  }

  private progress(entry: CheckpointTensor): void {
    this.doneBytes += entry.end - entry.begin;
    this.onProgress(this.doneBytes, this.totalBytes);
  }
}

/** The raw bytes of a tensor as numbers. */
export function toFloats(bytes: Uint8Array, type: DType): Float32Array | Float64Array {
  switch (type) {
    case "f32":
      return new Float32Array(bytes.buffer);
    case "f64":
      return new Float64Array(bytes.buffer);
    case "bf16":
      return bfloat16ToFloat32(new Uint16Array(bytes.buffer));
    default:
      return float16ToFloat32(new Uint16Array(bytes.buffer));
  }
}
