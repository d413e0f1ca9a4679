/** The files of a tokenizer, read and checked: what comes out of here can be trusted by index.
 *  Always: ids are whole numbers within bounds and name one piece each; merges name known pieces; every refusal
 *  is one sentence with the file's name. */
import { join } from "node:path";
import { UsageError } from "../util/errors.ts";
import { postProcessorIds } from "./post_processor.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

export interface AddedToken {
  id: number;
  content: string;
  singleWord: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

export interface TokenizerFile {
  path: string;
  json: JsonObject;
  config: JsonObject;
  modelType: string;
  /** Piece to id, added tokens not included. */
  vocabulary: Map<string, number>;
  /** Three ids a merge, by rank: left, right, both together. Empty for models without merges. */
  merges: Int32Array;
  addedTokens: AddedToken[];
  /** Id to piece, added tokens included; holes are undefined. */
  pieces: (string | undefined)[];
  unkId: number | null;
  specialTokens: { bos: string | null; eos: string | null; unk: string | null; pad: string | null };
  eosIds: number[];
  /** What addSpecialTokens puts before and after a text. */
  prefix: number[];
  suffix: number[];
}

/** Real vocabularies end near 300,000; a file that asks for more than this lies. */
const idMax = 4_194_303;
const fileBytesMax = 256 * 1024 * 1024;

export async function readTokenizerFile(directory: string): Promise<TokenizerFile> {
  const path = join(directory, "tokenizer.json");
  const json = await readJsonObject(path);
  if (json === null) {
    const sentencePiece = await Bun.file(join(directory, "tokenizer.model")).exists();
    const hint = sentencePiece
      ? " (tokenizer.model alone is not enough: save the tokenizer as tokenizer.json with transformers)"
      : "";
    throw new UsageError(`${directory} has no tokenizer.json${hint}. Name a folder in Hugging Face layout.`);
  }
  const config = (await readJsonObject(join(directory, "tokenizer_config.json"))) ?? {};
  const map = (await readJsonObject(join(directory, "special_tokens_map.json"))) ?? {};
  const generation = await readJsonObject(join(directory, "generation_config.json"));
  const modelConfig = generation ? null : await readJsonObject(join(directory, "config.json"));
  return parseTokenizerFile({
    path,
    json,
    config,
    map,
    eosTokenId: (generation ?? modelConfig)?.eos_token_id ?? null,
  });
}

export function parseTokenizerFile(files: {
  path: string;
  json: JsonObject;
  config?: JsonObject;
  map?: JsonObject;
  eosTokenId?: Json;
}): TokenizerFile {
  const { path, json, config = {}, map = {} } = files;
  const model = json.model;
  if (!isObject(model))
    throw new UsageError(`${path} has no "model": it is not a tokenizer.json of Hugging Face.`);
  const modelType =
    typeof model.type === "string" ? model.type : model.merges !== undefined ? "BPE" : "unknown";
  const { vocabulary, pieces } = readVocabulary(path, model);
  const merges = readMerges(path, model, vocabulary);
  const specialTokens = {
    bos: tokenName(config.bos_token) ?? tokenName(map.bos_token),
    eos: tokenName(config.eos_token) ?? tokenName(map.eos_token),
    unk: tokenName(config.unk_token) ?? tokenName(map.unk_token),
    pad: tokenName(config.pad_token) ?? tokenName(map.pad_token),
  };
  const addedTokens = readAddedTokens(path, json.added_tokens, vocabulary, pieces);
  addNamedSpecials(addedTokens, vocabulary, [
    ...Object.values(specialTokens),
    ...additionalSpecials(config, map),
  ]);
  const file: TokenizerFile = {
    path,
    json,
    config,
    modelType,
    vocabulary,
    merges,
    addedTokens,
    pieces,
    specialTokens,
    unkId: unknownId(model, vocabulary),
    eosIds: [],
    prefix: [],
    suffix: [],
  };
  file.eosIds = readEosIds(file, files.eosTokenId ?? null);
  Object.assign(file, postProcessorIds(file, json.post_processor ?? null));
  return file;
}

/** null when the file is not there. */
export async function readJsonObject(path: string): Promise<JsonObject | null> {
  const file = Bun.file(path);
  if (!(await file.exists())) return null;
  if (file.size > fileBytesMax) {
    throw new UsageError(
      `${path} has ${file.size} bytes, more than the ${fileBytesMax} that such a file may have.`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(await file.text());
  } catch {
    throw new UsageError(
      `${path} is not valid JSON: it may be truncated or a Git LFS pointer; fetch it again.`,
    );
  }
  if (!isObject(value)) throw new UsageError(`${path} holds no JSON object.`);
  return value;
}

export const isObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export function idOf(
  file: Pick<TokenizerFile, "addedTokens" | "vocabulary">,
  piece: string | null,
): number | null {
  if (piece === null) return null;
  return file.addedTokens.find((token) => token.content === piece)?.id ?? file.vocabulary.get(piece) ?? null;
}

function readVocabulary(
  path: string,
  model: JsonObject,
): { vocabulary: Map<string, number>; pieces: (string | undefined)[] } {
  const entries: [string, unknown][] = Array.isArray(model.vocab)
    ? model.vocab.map((entry, index) => [Array.isArray(entry) ? String(entry[0]) : String(index), index])
    : isObject(model.vocab)
      ? Object.entries(model.vocab)
      : [];
  if (entries.length === 0) throw new UsageError(`${path} has no vocabulary in "model.vocab".`);
  const vocabulary = new Map<string, number>();
  const pieces: (string | undefined)[] = [];
  for (const [piece, id] of entries) {
    checkId(path, piece, id);
    const other = pieces[id];
    if (other !== undefined) {
      throw new UsageError(
        `${path} gives the id ${id} to both ${JSON.stringify(other)} and ${JSON.stringify(piece)}.`,
      );
    }
    vocabulary.set(piece, id);
    pieces[id] = piece;
  }
  return { vocabulary, pieces };
}

function checkId(path: string, piece: string, id: unknown): asserts id is number {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id <= idMax) return;
  throw new UsageError(
    `${path} gives ${JSON.stringify(piece)} the id ${JSON.stringify(id)}; ids are whole numbers from 0 to ${idMax}.`,
  );
}

function readMerges(path: string, model: JsonObject, vocabulary: Map<string, number>): Int32Array {
  const list = model.merges ?? [];
  if (!Array.isArray(list)) throw new UsageError(`${path} has "model.merges" that is not a list.`);
  const merges = new Int32Array(list.length * 3);
  list.forEach((merge, rank) => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? pair : [];
    if (typeof left !== "string" || typeof right !== "string") {
      throw new UsageError(`${path}: merge ${rank} is ${JSON.stringify(merge)}, not a pair of pieces.`);
    }
    for (const [i, piece] of [left, right, left + right].entries()) {
      const id = vocabulary.get(piece);
      if (id === undefined) {
        const name = JSON.stringify(piece);
        throw new UsageError(
          `${path}: merge ${rank} needs the piece ${name}, which the vocabulary does not have.`,
        );
      }
      merges[rank * 3 + i] = id;
    }
  });
  return merges;
}

function readAddedTokens(
  path: string,
  list: Json | undefined,
  vocabulary: Map<string, number>,
  pieces: (string | undefined)[],
): AddedToken[] {
  if (list === undefined || list === null) return [];
  if (!Array.isArray(list)) throw new UsageError(`${path} has "added_tokens" that is not a list.`);
  return list.map((entry) => {
    if (!isObject(entry) || typeof entry.content !== "string" || entry.content === "") {
      throw new UsageError(`${path} has an added token without content: ${JSON.stringify(entry)}.`);
    }
    const { id, content } = entry;
    checkId(path, content, id);
    const known = vocabulary.get(content);
    const other = pieces[id];
    if ((known !== undefined && known !== id) || (other !== undefined && other !== content)) {
      const taken =
        other !== undefined && other !== content
          ? `already names ${JSON.stringify(other)}`
          : `contradicts its id ${known} in the vocabulary`;
      throw new UsageError(
        `${path}: the added token ${JSON.stringify(content)} has the id ${id}, which ${taken}.`,
      );
    }
    pieces[id] = content;
    const special = entry.special === true;
    return {
      id,
      content,
      special,
      singleWord: entry.single_word === true,
      lstrip: entry.lstrip === true,
      rstrip: entry.rstrip === true,
      normalized: typeof entry.normalized === "boolean" ? entry.normalized : !special,
    };
  });
}

/** As transformers: a token that the configuration names as special is one, also where added_tokens forgot it. */
function addNamedSpecials(
  added: AddedToken[],
  vocabulary: Map<string, number>,
  names: (string | null)[],
): void {
  for (const content of names) {
    const id = content === null || content === "" ? undefined : vocabulary.get(content);
    if (content === null || id === undefined || added.some((token) => token.content === content)) continue;
    added.push({
      id,
      content,
      singleWord: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    });
  }
}

function additionalSpecials(config: JsonObject, map: JsonObject): (string | null)[] {
  const list = config.additional_special_tokens ?? map.additional_special_tokens;
  return Array.isArray(list) ? list.map(tokenName) : [];
}

function tokenName(value: Json | undefined): string | null {
  if (typeof value === "string") return value;
  return isObject(value) && typeof value.content === "string" ? value.content : null;
}

function unknownId(model: JsonObject, vocabulary: Map<string, number>): number | null {
  if (typeof model.unk_token === "string") return vocabulary.get(model.unk_token) ?? null;
  return typeof model.unk_id === "number" ? model.unk_id : null;
}

function readEosIds(file: TokenizerFile, declared: Json): number[] {
  const ids = new Set<number>();
  const own = idOf(file, file.specialTokens.eos);
  if (own !== null) ids.add(own);
  for (const id of Array.isArray(declared) ? declared : [declared]) {
    if (id === null) continue;
    checkId(file.path.replace(/tokenizer\.json$/, "generation_config.json"), "eos_token_id", id);
    ids.add(id);
  }
  return [...ids];
}
