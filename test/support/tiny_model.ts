/** A whole small model in a folder of its own: the weights of a reference family with a byte-level tokenizer around them,
 *  so that tests can serve a real model without any file from outside the project.
 *  Always: the tokenizer names exactly the 512 ids of the weights; what the model says is noise, but the same every time. */
import { copyFile, mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { byteAlphabet } from "../../src/text/bpe.ts";
import { familyDirectory } from "./paths.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

export interface TinyModelOptions {
  /** Longest sequence; the weights do not depend on it. */
  maxPositions?: number;
  /** null: no chat template. */
  chatTemplate?: string | null;
  /** A copy of the weights, which a test may spoil; otherwise a link. */
  ownWeights?: boolean;
}

export const tinyVocabularySize = 512;

export const tinyChatTemplate =
  "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";

/** Writes config.json, model.safetensors, tokenizer.json, tokenizer_config.json and generation_config.json into `directory`,
 *  which is made where it is not there, and returns it. */
export async function makeTinyModel(directory: string, options: TinyModelOptions = {}): Promise<string> {
  const { maxPositions = 256, chatTemplate = tinyChatTemplate, ownWeights = false } = options;
  await mkdir(directory, { recursive: true });
  const source = familyDirectory("llama-mha");
  const config = (await Bun.file(join(source, "config.json")).json()) as JsonObject;
  const weights = join(source, "model.safetensors");
  const place = join(directory, "model.safetensors");
  await (ownWeights ? copyFile(weights, place) : symlink(weights, place));
  await writeJson(directory, "config.json", { ...config, max_position_embeddings: maxPositions });
  await writeJson(directory, "tokenizer.json", tinyTokenizer());
  await writeJson(directory, "tokenizer_config.json", {
    bos_token: "<s>",
    eos_token: "</s>",
    unk_token: "<unk>",
    ...(chatTemplate === null ? {} : { chat_template: chatTemplate }),
  });
  await writeJson(directory, "generation_config.json", { bos_token_id: 1, eos_token_id: 2 });
  return directory;
}

/** tokenizer.json of a byte-level BPE: three special tokens, 256 bytes, and the pairs of the commonest letters. */
export function tinyTokenizer(): JsonObject {
  const specials = ["<unk>", "<s>", "</s>"];
  const letters = [..."etaoinshrdlucmf "].map((letter) => byteAlphabet[letter.charCodeAt(0)]!);
  const pairs = letters.flatMap((left) => letters.map((right): [string, string] => [left, right]));
  const merges = pairs.slice(0, tinyVocabularySize - specials.length - byteAlphabet.length);
  const pieces = [...specials, ...byteAlphabet, ...merges.map(([left, right]) => left + right)];
  const bos = { SpecialToken: { id: "<s>", type_id: 0 } };
  const text = { Sequence: { id: "A", type_id: 0 } };
  return {
    version: "1.0",
    added_tokens: specials.map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    post_processor: {
      type: "TemplateProcessing",
      single: [bos, text],
      pair: [bos, text],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])), merges },
  };
}

export async function writeJson(directory: string, name: string, value: Json): Promise<void> {
  await writeFile(join(directory, name), JSON.stringify(value));
}
