/** The special tokens around a text, from tokenizer.json's post_processor: ids before and ids after. */
import { UsageError } from "../util/errors.ts";
import { idOf, isObject, type Json, type JsonObject, type TokenizerFile } from "./tokenizer_file.ts";

/** The ids around a text. tokenizer.json alone decides: transformers 5 ignores add_bos_token and add_eos_token of
 *  tokenizer_config.json wherever tokenizer.json is there (measured with 5.17, four tokenizer classes). */
export function postProcessorIds(
  file: TokenizerFile,
  processor: Json,
): { prefix: number[]; suffix: number[] } {
  const nothing = { prefix: [], suffix: [] };
  if (!isObject(processor)) return nothing;
  switch (processor.type) {
    case "ByteLevel":
      return nothing;
    case "TemplateProcessing":
      return templateIds(file, processor);
    case "BertProcessing":
    case "RobertaProcessing":
      return { prefix: [pairId(file, processor.cls)], suffix: [pairId(file, processor.sep)] };
    case "Sequence": {
      const parts = (Array.isArray(processor.processors) ? processor.processors : []).map((part) =>
        postProcessorIds(file, part),
      );
      // A later processor wraps what an earlier one made.
      return {
        prefix: parts.toReversed().flatMap((part) => part.prefix),
        suffix: parts.flatMap((part) => part.suffix),
      };
    }
    default:
      throw new UsageError(
        `${file.path} has a post_processor of type ${JSON.stringify(processor.type)}, which is not supported.`,
      );
  }
}

function templateIds(file: TokenizerFile, processor: JsonObject): { prefix: number[]; suffix: number[] } {
  const single = Array.isArray(processor.single) ? processor.single : [];
  const specials = isObject(processor.special_tokens) ? processor.special_tokens : {};
  const prefix: number[] = [];
  const suffix: number[] = [];
  let target = prefix;
  for (const part of single) {
    if (!isObject(part)) continue;
    if (isObject(part.Sequence)) target = suffix;
    if (!isObject(part.SpecialToken)) continue;
    const name = String(part.SpecialToken.id);
    const special = Object.hasOwn(specials, name) ? specials[name] : undefined;
    const ids = isObject(special) && Array.isArray(special.ids) ? special.ids : [idOf(file, name) as Json];
    for (const id of ids) {
      if (typeof id !== "number" || file.pieces[id] === undefined) {
        throw new UsageError(
          `${file.path}: post_processor names the token ${JSON.stringify(name)} with the id ${JSON.stringify(id)}, which the vocabulary does not have.`,
        );
      }
      target.push(id);
    }
  }
  return { prefix, suffix };
}

function pairId(file: TokenizerFile, pair: Json | undefined): number {
  const id = Array.isArray(pair) ? pair[1] : undefined;
  if (typeof id === "number" && file.pieces[id] !== undefined) return id;
  throw new UsageError(
    `${file.path}: post_processor names ${JSON.stringify(pair)}, which the vocabulary does not have.`,
  );
}
