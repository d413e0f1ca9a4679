/** A tokenizer.json as GGUF's metadata. llama.cpp has two kinds of BPE: SentencePiece's, by scores, and byte-level, by merges
 *  and the name of a pre-tokenizer that it has built in. A tokenizer of neither kind is refused by what is foreign in it. */
import { join } from "node:path";
import { UsageError } from "../../util/errors.ts";
import type { GgufValue } from "./file.ts";

type Json = { [key: string]: unknown };
type Metadata = [string, GgufValue][];

/** llama.cpp's token types. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

interface Piece {
  content: string;
  type: number;
  score: number;
}

/** `size`: the model's vocabulary, which may be larger than the tokenizer's. */
export async function vocabularyMetadata(directory: string, size: number): Promise<Metadata> {
  const json = await readJson(join(directory, "tokenizer.json"));
  if (!json)
    throw new UsageError(`${directory} has no tokenizer.json, and a GGUF file carries its tokenizer.`);
  const config = (await readJson(join(directory, "tokenizer_config.json"))) ?? {};
  const model = (json["model"] ?? {}) as Json;
  if (model["type"] !== "BPE")
    throw new UsageError(
      `The tokenizer in ${directory} is ${String(model["type"])}; GGUF can carry BPE only.`,
    );
  const sentencePiece = model["byte_fallback"] === true;
  const merges = mergesOf(model);
  const pieces = piecesOf(json, model, size, sentencePiece ? scoresOf(merges) : null);
  const metadata: Metadata = [
    ["tokenizer.ggml.model", { type: "string", value: sentencePiece ? "llama" : "gpt2" }],
    [
      "tokenizer.ggml.pre",
      { type: "string", value: sentencePiece ? "default" : preTokenizer(json, directory) },
    ],
    ["tokenizer.ggml.tokens", { type: "strings", value: pieces.map((piece) => piece.content) }],
    ["tokenizer.ggml.token_type", { type: "i32s", value: pieces.map((piece) => piece.type) }],
  ];
  if (sentencePiece)
    metadata.push(["tokenizer.ggml.scores", { type: "f32s", value: pieces.map(({ score }) => score) }]);
  else
    metadata.push([
      "tokenizer.ggml.merges",
      { type: "strings", value: merges.map((pair) => pair.join(" ")) },
    ]);
  metadata.push(...specialIds(config, pieces), [
    "tokenizer.ggml.add_bos_token",
    { type: "bool", value: addsBos(json, config) },
  ]);
  if (sentencePiece)
    metadata.push(["tokenizer.ggml.add_space_prefix", { type: "bool", value: prependsSpace(json) }]);
  return metadata;
}

function piecesOf(json: Json, model: Json, size: number, scores: Map<string, number> | null): Piece[] {
  const pieces: Piece[] = Array.from({ length: size }, (_, id) => ({
    content: `[PAD${id}]`,
    type: tokenType.unused,
    score: 0,
  }));
  const unknown = model["unk_token"];
  for (const [content, id] of Object.entries((model["vocab"] ?? {}) as { [piece: string]: number })) {
    if (id >= size)
      throw new UsageError(`Token ${id} of the tokenizer is beyond the model's vocabulary of ${size}.`);
    const isByte = scores !== null && /^<0x[0-9A-F]{2}>$/.test(content);
    const type = content === unknown ? tokenType.unknown : isByte ? tokenType.byte : tokenType.normal;
    pieces[id] = { content, type, score: scores?.get(content) ?? (isByte ? 0 : -1e6) };
  }
  for (const added of (json["added_tokens"] ?? []) as { id: number; content: string; special: boolean }[]) {
    if (added.id >= size)
      throw new UsageError(`Token ${added.content} is beyond the model's vocabulary of ${size}.`);
    const special = added.special ? tokenType.control : tokenType.userDefined;
    pieces[added.id] = {
      content: added.content,
      type: added.content === unknown ? tokenType.unknown : special,
      score: 0,
    };
  }
  return pieces;
}

/** SentencePiece joins the pair whose piece has the highest score first: the piece's first place among the merges. */
function scoresOf(merges: readonly [string, string][]): Map<string, number> {
  const scores = new Map<string, number>();
  merges.forEach(([left, right], rank) => {
    const piece = left + right;
    if (!scores.has(piece)) scores.set(piece, 0 - rank);
  });
  return scores;
}

const mergesOf = (model: Json): [string, string][] =>
  ((model["merges"] ?? []) as (string | [string, string])[]).map((merge) =>
    typeof merge === "string" ? (merge.split(" ") as [string, string]) : merge,
  );

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|";
const tail = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/** Of the regex in a Split stage. */
const splits: { [regex: string]: string } = {
  [`${contractions}\\p{N}{1,3}${tail}`]: "llama-bpe",
  [`${contractions}\\p{N}${tail}`]: "qwen2",
};

function preTokenizer(json: Json, directory: string): string {
  const outer = (json["pre_tokenizer"] ?? {}) as Json;
  const stages = (outer["type"] === "Sequence" ? outer["pretokenizers"] : [outer]) as Json[];
  const names = stages.map((stage) => stage["type"]).join(", ");
  const last = stages.at(-1) ?? {};
  const gpt2 =
    last["type"] === "ByteLevel" && last["use_regex"] !== false && last["add_prefix_space"] !== true;
  if (gpt2 && stages.length === 1) return "gpt-2";
  if (
    gpt2 &&
    stages.length === 2 &&
    stages[0]!["type"] === "Digits" &&
    stages[0]!["individual_digits"] === true
  )
    return "starcoder";
  const regex = ((stages[0]?.["pattern"] ?? {}) as Json)["Regex"];
  const known = stages.length === 2 && typeof regex === "string" ? splits[regex] : undefined;
  if (known) return known;
  throw new UsageError(
    `The pre-tokenizer of ${directory} (${names}) is none that llama.cpp has built in, so a GGUF file would be read with other tokens. Known are those of GPT-2, StarCoder, Llama 3 and Qwen 2.`,
  );
}

function specialIds(config: Json, pieces: readonly Piece[]): Metadata {
  const names: [string, string][] = [
    ["bos_token", "bos_token_id"],
    ["eos_token", "eos_token_id"],
    ["unk_token", "unknown_token_id"],
    ["pad_token", "padding_token_id"],
  ];
  return names.flatMap(([token, key]): Metadata => {
    const value = config[token];
    const content =
      typeof value === "string" ? value : ((value as Json | null | undefined)?.["content"] ?? null);
    const id = pieces.findIndex((piece) => piece.content === content && piece.type !== tokenType.unused);
    return id < 0 ? [] : [[`tokenizer.ggml.${key}`, { type: "u32", value: id }]];
  });
}

/** As the post-processor says, else the config's flag. */
function addsBos(json: Json, config: Json): boolean {
  const single = ((json["post_processor"] ?? {}) as Json)["single"];
  if (Array.isArray(single)) return "SpecialToken" in ((single[0] ?? {}) as Json);
  return config["add_bos_token"] === true;
}

function prependsSpace(json: Json): boolean {
  return (
    JSON.stringify([json["normalizer"] ?? null, json["pre_tokenizer"] ?? null]).match(
      /"Prepend"|"prepend_scheme":"(always|first)"/,
    ) !== null
  );
}

async function readJson(path: string): Promise<Json | null> {
  const file = Bun.file(path);
  if (!(await file.exists())) return null;
  return (await file.json().catch((error: Error) => {
    throw new UsageError(`${path} is not JSON: ${error.message}.`);
  })) as Json;
}
