/** Where each parameter lies in the flat blocks that training works on: one block for the embedding, one a transformer
 *  block, one for the final norm and the head.
 *  Always: parts of a fused matrix (q, k, v; gate, up) follow each other row by row; groups start on a cache line in
 *  every element type; a block's size is a multiple of `blockMultiple`, so that 1 to 8 ranks own equal shares of it. */
import type { LlamaConfig } from "./config.ts";
import { type Parameter, parametersOf, type Part, partsOf } from "./weights.ts";

/** A parameter under its Hugging Face name. Offsets and sizes count elements. */
export interface FlatParameter {
  name: string;
  block: number;
  offset: number;
  shape: readonly number[];
  size: number;
}

/** What an op sees as one tensor: a matrix [N, K] of stacked parts, or a vector [N]. */
export interface FlatGroup {
  offset: number;
  shape: readonly number[];
  parts: FlatParameter[];
}

export interface FlatBlock {
  name: string;
  index: number;
  size: number;
  groups: Map<string, FlatGroup>;
  parameters: FlatParameter[];
  /** Ranges [begin, end) of elements that weight decay pulls: the matrices. */
  decayed: [number, number][];
}

export interface FlatLayout {
  blocks: FlatBlock[];
  parameters: Map<string, FlatParameter>;
  /** Elements without padding. */
  parameterCount: number;
}

/** Elements: 840 is divisible by 1 to 8, times 8 for the pieces that the gradient norm is summed in. */
export const blockMultiple = 6720;
const groupMultiple = 32;

/** Blocks of the whole model: embedding, layers in order, top. A tied head is the embedding. */
export function flatLayout(config: LlamaConfig): FlatLayout {
  const { embedding, layers, top } = parametersOf(config);
  const [V = 0, D = 0] = embedding.shape;
  const ownTop = config.tieEmbeddings ? top.filter(({ key }) => key !== "head") : top;
  return layoutOf([
    { name: "embedding", list: [{ key: "embedding", matrix: [embedding], N: V, K: D }] },
    ...layers.map((list, layer) => ({ name: `layer ${layer}`, list })),
    { name: "top", list: ownTop },
  ]);
}

/** A layout of any named lists of parameters, one block each. */
export function layoutOf(lists: { name: string; list: Parameter[] }[]): FlatLayout {
  const blocks = lists.map(({ name, list }, index) => flatBlock(name, index, list));
  const all = blocks.flatMap((block) => block.parameters);
  return {
    blocks,
    parameters: new Map(all.map((parameter) => [parameter.name, parameter])),
    parameterCount: all.reduce((sum, { size }) => sum + size, 0),
  };
}

function flatBlock(name: string, index: number, list: Parameter[]): FlatBlock {
  const groups: FlatBlock["groups"] = new Map();
  const decayed: [number, number][] = [];
  let end = 0;
  for (const parameter of list) {
    const offset = roundUp(end, groupMultiple);
    end = offset;
    const parts = partsOf(parameter).map((part) => {
      const placed = flatParameter(part, index, end);
      end += placed.size;
      return placed;
    });
    const shape = "matrix" in parameter ? [parameter.N, parameter.K] : [parameter.size];
    groups.set(parameter.key, { offset, shape, parts });
    if ("matrix" in parameter) decayed.push([offset, end]);
  }
  const parameters = [...groups.values()].flatMap((group) => group.parts);
  return { name, index, size: roundUp(end, blockMultiple), groups, parameters, decayed };
}

const flatParameter = (part: Part, block: number, offset: number): FlatParameter => ({
  name: part.name,
  block,
  offset,
  shape: part.shape,
  size: part.shape.reduce((a, b) => a * b, 1),
});

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;
