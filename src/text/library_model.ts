/** WordPiece, Unigram and every pipeline that we do not run ourselves, by @huggingface/tokenizers.
 *  Only its normalizer, pre-tokenizer, model and (where ours has none) decoder are used: added tokens are split before. */
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { UsageError } from "../util/errors.ts";
import { compileDecoder } from "./token_decoder.ts";
import type { TextModel } from "./tokenizer.ts";
import { isObject, type Json, type TokenizerFile } from "./tokenizer_file.ts";

export function compileLibrary(file: TokenizerFile): TextModel {
  checkPatterns(file);
  const library = open(file);
  const model = library.model as unknown as (pieces: string[]) => string[];
  const idOfPiece = (piece: string): number | null => file.vocabulary.get(piece) ?? file.unkId;
  const compiled: TextModel = {
    engine: "library",
    normalize: (text) => library.normalizer?.normalize(text) ?? text,
    encode: (text, first, out) => {
      const section = { section_index: first ? 0 : 1 };
      const pieces = library.pre_tokenizer ? library.pre_tokenizer.pre_tokenize(text, section) : [text];
      for (const piece of model(pieces)) {
        const id = idOfPiece(piece);
        if (id !== null) out.push(id);
      }
    },
    decode: compileDecoder(file.json.decoder) ?? ((pieces) => library.decoder!.decode(pieces)),
  };
  probe(file, compiled);
  return compiled;
}

/** The library builds parts that then fail on every text: found here, and not by the first request. */
function probe(file: TokenizerFile, model: TextModel): void {
  const pieces = file.pieces.filter((piece) => piece !== undefined).slice(0, 8);
  try {
    model.encode(model.normalize("A b"), true, []);
    model.decode(pieces);
  } catch (error) {
    throw unsupported(file, error);
  }
}

/** A pattern that it does not know the library leaves out, with a warning on the console. */
function checkPatterns(file: TokenizerFile): void {
  const { normalizer = null, pre_tokenizer = null, decoder = null } = file.json;
  const waiting: Json[] = [normalizer, pre_tokenizer, decoder];
  for (let value = waiting.pop(); value !== undefined; value = waiting.pop()) {
    if (Array.isArray(value)) waiting.push(...value);
    else if (isObject(value)) {
      const { pattern, type } = value;
      const known =
        isObject(pattern) && (typeof pattern.String === "string" || typeof pattern.Regex === "string");
      if ((type === "Split" || type === "Replace") && !known) {
        throw new UsageError(
          `${file.path} has a ${type} whose pattern is ${JSON.stringify(pattern)}; it is {"String": …} or {"Regex": …}.`,
        );
      }
      waiting.push(...Object.values(value));
    }
  }
}

/** What the library has; for any other type it would guess from the keys. */
const modelTypes = ["BPE", "WordPiece", "Unigram", "unknown"];

function open(file: TokenizerFile): LibraryTokenizer {
  if (!modelTypes.includes(file.modelType)) {
    throw new UsageError(
      `${file.path} has a model of type ${JSON.stringify(file.modelType)}; supported are BPE, WordPiece and Unigram.`,
    );
  }
  // The library asks for these keys even where they are null; added tokens and templates are ours.
  const empty = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
  const config = { ...file.config, clean_up_tokenization_spaces: false };
  try {
    return new LibraryTokenizer({ ...empty, ...file.json, post_processor: null, added_tokens: [] }, config);
  } catch (error) {
    throw unsupported(file, error);
  }
}

function unsupported(file: TokenizerFile, error: unknown): UsageError {
  const reason = error instanceof Error ? error.message : String(error);
  return new UsageError(
    `${file.path} describes a tokenizer that is not supported: ${reason.replace(/\.$/, "")}.`,
  );
}
