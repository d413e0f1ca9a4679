/** One rank's share of a model that several ranks run together (tensor parallelism, Shoeybi et al. 2019): whole heads of q, k and
 *  v, rows of gate and up, columns of the output and down projections, and rows of the head.
 *  Always: the ranks' shares of a matrix together are the matrix; where there are fewer key/value heads than ranks, several
 *  ranks hold the same one; the last ranks' rows of the head overlap where the vocabulary does not divide. */
import { bytesOf } from "../tensor/tensor.ts";
import { UsageError } from "../util/errors.ts";
import type { Checkpoint, CheckpointTensor } from "./checkpoint.ts";
import type { LlamaConfig } from "./config.ts";
import {
  checkNames,
  elementType,
  entryOf,
  type ModelParameters,
  type Parameter,
  parametersOf,
  type Part,
  partsOf,
} from "./weights.ts";

/** Which of how many ranks. */
export interface Shard {
  rank: number;
  world: number;
}

/** Collectives take no more. */
export const ranksMax = 8;

/** What a rank computes: its heads and its part of the intermediate size. Throws UsageError where the model cannot be shared
 *  out so. */
export function shardConfig(config: LlamaConfig, { world }: Shard): LlamaConfig {
  const problem = shardProblem(config, world);
  if (problem !== null) {
    const possible = Array.from({ length: ranksMax }, (_, i) => i + 1).filter(
      (count) => shardProblem(config, count) === null,
    );
    throw new UsageError(
      `--tensor-parallel ${world} ${problem}; this model can be shared out to ${new Intl.ListFormat("en", { type: "disjunction" }).format(possible.map(String))}.`,
    );
  }
  return {
    ...config,
    headCount: config.headCount / world,
    keyValueHeadCount: Math.max(1, config.keyValueHeadCount / world),
    intermediateSize: config.intermediateSize / world,
  };
}

/** The rest of a sentence that begins with the number of ranks; null where they can share. */
function shardProblem({ headCount, keyValueHeadCount: G, intermediateSize }: LlamaConfig, world: number) {
  if (headCount % world !== 0) return `does not divide the ${headCount} query heads`;
  if (intermediateSize % world !== 0) return `does not divide the intermediate size ${intermediateSize}`;
  if (G % world !== 0 && world % G !== 0)
    return `neither divides the ${G} key/value heads nor is a multiple of them`;
  return null;
}

/** Rows of the head that every rank computes. */
export const headRows = ({ vocabularySize }: LlamaConfig, world: number): number =>
  Math.ceil(vocabularySize / world);

/** First of them. */
export const firstHeadRow = (config: LlamaConfig, { rank, world }: Shard): number =>
  Math.min(rank * headRows(config, world), config.vocabularySize - headRows(config, world));

/** Where a rank's part of a matrix or vector begins in the whole. */
export function originOf(
  name: string,
  own: readonly number[],
  whole: readonly number[],
  { config, shard }: { config: LlamaConfig; shard: Shard },
): { row: number; column: number } {
  const { rank, world } = shard;
  const [rows = 0, columns = 0] = own;
  const column = columns === (whole[1] ?? 0) ? 0 : rank * columns;
  if (rows === whole[0]) return { row: 0, column };
  const isKeyOrValue = /(^|\.)[kv]_proj(\.|$)/.test(name);
  const head = Math.floor((rank * config.keyValueHeadCount) / world);
  return { row: isKeyOrValue ? head * config.headDim : rank * rows, column };
}

/** A checkpoint seen by one rank: tensors have the shapes and places of its share. */
export interface ShardedCheckpoint {
  checkpoint: Checkpoint;
  parameters: ModelParameters;
}

/** Throws UsageError naming what is missing or misshapen in the whole checkpoint. */
export function shardCheckpoint(
  checkpoint: Checkpoint,
  config: LlamaConfig,
  shard: Shard,
): ShardedCheckpoint {
  const whole = parametersOf(config);
  const parameters = [...whole.layers.flat(), ...whole.top];
  checkNames(checkpoint, parameters, whole.embedding, config);
  const own = parametersOf(shardConfig(config, shard));
  const top = own.top.map((parameter) => ownHead(parameter, config, shard));
  const wholeParts = [...parameters.flatMap(partsOf), whole.embedding];
  const ownParts = [...[...own.layers.flat(), ...top].flatMap(partsOf), own.embedding];
  const tensors = new Map(
    ownParts.map((part, i): [string, CheckpointTensor] => {
      const entry = entryOf(checkpoint, wholeParts[i] as Part);
      if (part.name === headName) return [headName, rowsOf(entry, part, firstHeadRow(config, shard))];
      const { row, column } = originOf(part.name, part.shape, entry.shape, { config, shard });
      return [
        part.name,
        column === 0 && part.shape[1] === entry.shape[1]
          ? rowsOf(entry, part, row)
          : columnsOf(entry, part, column),
      ];
    }),
  );
  return { checkpoint: { ...checkpoint, tensors }, parameters: { ...own, top } };
}

/** Of the head's rows, which may be those of the embedding, that is read whole under its own name. */
const headName = "lm_head.weight";

function ownHead(parameter: Parameter, config: LlamaConfig, { world }: Shard): Parameter {
  if (!("matrix" in parameter)) return parameter;
  const N = headRows(config, world);
  return { key: parameter.key, matrix: [{ name: headName, shape: [N, parameter.K] }], N, K: parameter.K };
}

/** Rows lie together in the file. */
function rowsOf(entry: CheckpointTensor, { shape }: Part, row: number): CheckpointTensor {
  const rowBytes = (shape[1] ?? 1) * bytesOf[elementType(entry)];
  const begin = entry.begin + row * rowBytes;
  return { ...entry, shape, begin, end: begin + (shape[0] as number) * rowBytes };
}

function columnsOf(entry: CheckpointTensor, { shape }: Part, first: number): CheckpointTensor {
  return { ...entry, shape, columns: { first, of: entry.shape[1] as number } };
}
