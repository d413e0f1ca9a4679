/** How other programs name and lay out LLaMA's tensors, as recipes for Hugging Face's.
 *  Meta and EasyLM rotate neighbouring pairs of a head's elements, Hugging Face its two halves: rows of the query and key
 *  matrices change places. EasyLM stores matrices transposed. Meta cuts them over model-parallel files. */
import type { CheckpointTensor } from "../model/checkpoint.ts";
import type { SafetensorsDtype } from "../model/safetensors.ts";
import { UsageError } from "../util/errors.ts";
import { FileReader } from "./diff_file.ts";
import { elementBytes } from "./tensor_places.ts";

/** A tensor in Hugging Face's name and shape, made from its parts when its turn comes. */
export interface ImportedTensor {
  name: string;
  dtype: SafetensorsDtype;
  shape: number[];
  data: () => Promise<Uint8Array>;
}

export interface Heads {
  heads: number;
  keyValueHeads: number;
}

interface Rule {
  /** Matches the foreign name; the layer is its first group. */
  pattern: RegExp;
  name: string;
  /** Axis that Meta's model-parallel files cut; null: every file holds the whole. */
  cut: 0 | 1 | null;
  rotated?: "heads" | "keyValueHeads";
  transposed?: boolean;
}

const layer = "model.layers.$1.";

export const metaRules: readonly Rule[] = [
  { pattern: /^tok_embeddings\.weight$/, name: "model.embed_tokens.weight", cut: 1 },
  { pattern: /^norm\.weight$/, name: "model.norm.weight", cut: null },
  { pattern: /^output\.weight$/, name: "lm_head.weight", cut: 0 },
  {
    pattern: /^layers\.(\d+)\.attention\.wq\.weight$/,
    name: `${layer}self_attn.q_proj.weight`,
    cut: 0,
    rotated: "heads",
  },
  {
    pattern: /^layers\.(\d+)\.attention\.wk\.weight$/,
    name: `${layer}self_attn.k_proj.weight`,
    cut: 0,
    rotated: "keyValueHeads",
  },
  { pattern: /^layers\.(\d+)\.attention\.wv\.weight$/, name: `${layer}self_attn.v_proj.weight`, cut: 0 },
  { pattern: /^layers\.(\d+)\.attention\.wo\.weight$/, name: `${layer}self_attn.o_proj.weight`, cut: 1 },
  { pattern: /^layers\.(\d+)\.feed_forward\.w1\.weight$/, name: `${layer}mlp.gate_proj.weight`, cut: 0 },
  { pattern: /^layers\.(\d+)\.feed_forward\.w3\.weight$/, name: `${layer}mlp.up_proj.weight`, cut: 0 },
  { pattern: /^layers\.(\d+)\.feed_forward\.w2\.weight$/, name: `${layer}mlp.down_proj.weight`, cut: 1 },
  { pattern: /^layers\.(\d+)\.attention_norm\.weight$/, name: `${layer}input_layernorm.weight`, cut: null },
  {
    pattern: /^layers\.(\d+)\.ffn_norm\.weight$/,
    name: `${layer}post_attention_layernorm.weight`,
    cut: null,
  },
];

/** transformer.h.3.attention.wq.kernel: Meta's names under others, transposed. */
export const easylmRules: readonly Rule[] = metaRules.map((rule) => {
  const source = rule.pattern.source
    .replace("^tok_embeddings\\.weight", "^transformer\\.wte\\.embedding")
    .replace("^norm\\.weight", "^transformer\\.ln_f\\.kernel")
    .replace("^output\\.weight", "^lm_head\\.kernel")
    .replace("^layers", "^transformer\\.h")
    .replace("\\.weight$", "\\.kernel$");
  const matrix = rule.cut !== null && !source.includes("embedding");
  return { ...rule, pattern: new RegExp(source), transposed: matrix };
});

/** Computed from the rest when a model is loaded, so they are left behind. */
const derived = /^(rope\.freqs|layers\.\d+\.attention\.inner_attention\.rope\.freqs)$/;

/** Tensors of `parts` (one map a model-parallel file, in order) under Hugging Face's names. */
export function importTensors(
  parts: readonly Map<string, CheckpointTensor>[],
  rules: readonly Rule[],
  { heads, keyValueHeads }: Heads,
): ImportedTensor[] {
  const imported: ImportedTensor[] = [];
  const hidden = parts[0]!.get("norm.weight")?.shape[0] ?? 0;
  for (const foreign of parts[0]!.keys()) {
    if (derived.test(foreign)) continue;
    const rule = rules.find(({ pattern }) => pattern.test(foreign));
    if (!rule)
      throw new UsageError(
        `The tensor ${foreign} is not one of a LLaMA model; this importer reads no other.`,
      );
    const pieces = parts.map((part) => {
      const piece = part.get(foreign);
      if (!piece) throw new UsageError(`The tensor ${foreign} is missing from one of the files.`);
      return piece;
    });
    const rotated = rule.rotated === "heads" ? heads : rule.rotated === "keyValueHeads" ? keyValueHeads : 0;
    imported.push(
      recipe(foreign.replace(rule.pattern, rule.name), rule, pieces, { rotatedHeads: rotated, hidden }),
    );
  }
  return imported;
}

function recipe(
  name: string,
  rule: Rule,
  pieces: readonly CheckpointTensor[],
  { rotatedHeads, hidden }: { rotatedHeads: number; hidden: number },
): ImportedTensor {
  const { dtype } = pieces[0]!;
  const cut = pieces.length === 1 ? null : cutAxis(rule, pieces, hidden);
  const whole = joinedShape(pieces, cut, name);
  const shape = rule.transposed ? whole.toReversed() : whole;
  if (rotatedHeads > 0 && shape[0]! % (2 * rotatedHeads) !== 0)
    throw new UsageError(`${name} has ${shape[0]} rows, which ${rotatedHeads} heads cannot share.`);
  return {
    name,
    dtype,
    shape,
    data: async () => {
      const width = elementBytes(dtype);
      let bytes = await joined(pieces, cut, width);
      if (rule.transposed) bytes = transposed(bytes, whole[0]!, whole[1]!, width);
      return rotatedHeads > 0 ? halfSplit(bytes, shape[0]!, rotatedHeads) : bytes;
    },
  };
}

/** LLaMA 3's embeddings are cut by rows, those before by columns: pieces of whole rows are as wide as the model. */
function cutAxis(rule: Rule, pieces: readonly CheckpointTensor[], hidden: number): 0 | 1 | null {
  if (rule.name !== "model.embed_tokens.weight") return rule.cut;
  return pieces[0]!.shape[1] === hidden ? 0 : 1;
}

function joinedShape(pieces: readonly CheckpointTensor[], cut: 0 | 1 | null, name: string): number[] {
  const shape = [...pieces[0]!.shape];
  for (const piece of pieces)
    if (piece.shape.join() !== shape.join() || piece.dtype !== pieces[0]!.dtype)
      throw new UsageError(`The pieces of ${name} have different shapes or types.`);
  if (cut !== null) shape[cut]! *= pieces.length;
  return shape;
}

async function joined(
  pieces: readonly CheckpointTensor[],
  cut: 0 | 1 | null,
  width: number,
): Promise<Uint8Array> {
  const reader = new FileReader();
  try {
    const parts: Uint8Array[] = [];
    for (const { file, begin, end } of cut === null ? pieces.slice(0, 1) : pieces)
      parts.push(await reader.read(file, begin, end - begin));
    if (parts.length === 1) return parts[0]!;
    if (cut === 0) return Buffer.concat(parts);
    const [rows = 0, columns = 0] = pieces[0]!.shape;
    return interleaved(parts, rows, columns * width);
  } finally {
    await reader.close();
  }
}

/** Row by row, one piece after another. */
function interleaved(parts: readonly Uint8Array[], rows: number, rowBytes: number): Uint8Array {
  const whole = new Uint8Array(rows * rowBytes * parts.length);
  for (let row = 0, at = 0; row < rows; row++)
    for (const part of parts) {
      whole.set(part.subarray(row * rowBytes, (row + 1) * rowBytes), at);
      at += rowBytes;
    }
  return whole;
}

export function transposed(bytes: Uint8Array, rows: number, columns: number, width: number): Uint8Array {
  const kind = width === 2 ? Uint16Array : Uint32Array;
  const from = new kind(bytes.slice().buffer);
  const to = new kind(from.length);
  // In tiles, so that neither side walks through memory one cache line an element.
  const tile = 32;
  for (let r0 = 0; r0 < rows; r0 += tile)
    for (let c0 = 0; c0 < columns; c0 += tile)
      for (let r = r0; r < Math.min(rows, r0 + tile); r++)
        for (let c = c0; c < Math.min(columns, c0 + tile); c++) to[c * rows + r] = from[r * columns + c]!;
  return new Uint8Array(to.buffer);
}

/** Rows (2i, 2i + 1) of a head become rows (i, i + E/2). */
export function halfSplit(bytes: Uint8Array, rows: number, heads: number): Uint8Array {
  return permuteRows(bytes, rows, heads, (row, half) => (row % 2) * half + (row >> 1));
}

/** The way back: rows (i, i + E/2) of a head become rows (2i, 2i + 1). */
export function pairwise(bytes: Uint8Array, rows: number, heads: number): Uint8Array {
  return permuteRows(bytes, rows, heads, (row, half) => (row % half) * 2 + Math.floor(row / half));
}

function permuteRows(
  bytes: Uint8Array,
  rows: number,
  heads: number,
  place: (row: number, half: number) => number,
): Uint8Array {
  const [rowBytes, perHead] = [bytes.length / rows, rows / heads];
  const moved = new Uint8Array(bytes.length);
  for (let row = 0; row < rows; row++) {
    const head = Math.floor(row / perHead);
    const to = head * perHead + place(row % perHead, perHead / 2);
    moved.set(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return moved;
}
