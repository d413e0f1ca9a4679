/** Normalizers and pre-tokenizers that we run ourselves, with Python's (Oniguruma's) idea of each character class.
 *  A compile function returns null where a detail is not known exactly: then the library does the whole text. */
import { escapeRegExp } from "./added_tokens.ts";
import { type Json, type JsonObject, isObject } from "./tokenizer_file.ts";

export type Normalize = (text: string) => string;

export interface PreTokenizer {
  /** Pre-tokens of a normalized part. `first`: the part stands at the beginning of the whole text. */
  split(text: string, first: boolean): string[];
  /** Pre-tokens go to the model as UTF-8 bytes in GPT-2's alphabet. */
  byteLevel: boolean;
}

type Stage = (text: string, first: boolean) => string[];

export function compileNormalizer(json: Json | undefined): Normalize | null {
  if (json === null || json === undefined) return (text) => text;
  if (!isObject(json)) return null;
  switch (json.type) {
    case "Sequence":
      return compileNormalizers(json.normalizers);
    case "Prepend": {
      const prepend = json.prepend;
      return typeof prepend === "string" ? (text) => (text === "" ? "" : prepend + text) : null;
    }
    case "Replace": {
      const from = isObject(json.pattern) ? json.pattern.String : undefined;
      const to = json.content;
      return typeof from === "string" && from !== "" && typeof to === "string"
        ? (text) => text.replaceAll(from, () => to)
        : null;
    }
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = json.type;
      return (text) => text.normalize(form);
    }
    default:
      return null;
  }
}

function compileNormalizers(list: Json | undefined): Normalize | null {
  if (!Array.isArray(list)) return null;
  const steps = list.map(compileNormalizer);
  if (steps.includes(null)) return null;
  return (text) => steps.reduce((result, step) => step!(result), text);
}

export function compilePreTokenizer(json: Json | undefined): PreTokenizer | null {
  const list = flatten(json ?? null);
  if (list === null) return null;
  const levels = list.filter((entry) => entry.type === "ByteLevel").length;
  // After ByteLevel the text is in another alphabet: only as the last stage do we know what the others see.
  if (levels > 1 || (levels === 1 && list.at(-1)!.type !== "ByteLevel")) return null;
  const stages = list.map(compileStage);
  if (stages.includes(null)) return null;
  const [only] = stages;
  const split: Stage =
    stages.length === 1
      ? only!
      : (text, first) =>
          stages.reduce((parts, stage) => parts.flatMap((part, i) => stage!(part, first && i === 0)), [text]);
  return { split, byteLevel: levels === 1 };
}

function flatten(json: Json): JsonObject[] | null {
  if (json === null) return [];
  if (!isObject(json)) return null;
  if (json.type !== "Sequence") return [json];
  if (!Array.isArray(json.pretokenizers)) return null;
  const parts = json.pretokenizers.map(flatten);
  return parts.includes(null) ? null : parts.flatMap((part) => part!);
}

function compileStage(json: JsonObject): Stage | null {
  switch (json.type) {
    case "Metaspace":
      return compileMetaspace(json);
    case "ByteLevel": {
      const stage: Stage = json.use_regex === false ? (text) => [text] : isolate(gpt2);
      if (json.add_prefix_space !== true) return stage;
      return (text, first) => stage(text.startsWith(" ") ? text : ` ${text}`, first);
    }
    case "Digits":
      return isolate(json.individual_digits === true ? /\p{N}/gu : /\p{N}+/gu);
    case "Split":
      return compileSplit(json);
    default:
      return null;
  }
}

function compileMetaspace(json: JsonObject): Stage | null {
  const mark = json.replacement ?? "\u2581";
  // Files of older versions say add_prefix_space, and str_rep where the mark is longer than a character.
  const scheme = json.prepend_scheme ?? (json.add_prefix_space === false ? "never" : "always");
  if (typeof mark !== "string" || [...mark].length !== 1) return null;
  if (json.str_rep !== undefined && json.str_rep !== mark) return null;
  if (scheme !== "always" && scheme !== "first" && scheme !== "never") return null;
  const beforeMark = new RegExp(`(?=${escapeRegExp(mark)})`, "u");
  return (text, first) => {
    let marked = text.replaceAll(" ", mark);
    const wanted = scheme === "always" || (scheme === "first" && first);
    if (wanted && !marked.startsWith(mark)) marked = mark + marked;
    return json.split === false ? [marked] : marked.split(beforeMark);
  };
}

function compileSplit(json: JsonObject): Stage | null {
  if (!isObject(json.pattern)) return null;
  const { behavior, invert } = json;
  if (typeof json.pattern.String === "string") {
    const literal = escapeRegExp(json.pattern.String);
    if (literal === "" || invert === true) return null;
    if (behavior === "Isolated") return isolate(new RegExp(literal, "gu"));
    if (behavior === "MergedWithPrevious") return (text) => text.split(new RegExp(`(?<=${literal})`, "u"));
    return null;
  }
  const pattern = typeof json.pattern.Regex === "string" ? translateRegex(json.pattern.Regex) : null;
  if (pattern === null) return null;
  if (behavior === "Isolated" && invert !== true) return isolate(pattern);
  // The pattern names what stays: what is between matches is removed.
  if (behavior === "Removed" && invert === true) return (text) => text.match(pattern) ?? [];
  return null;
}

/** Matches and the gaps between them, both as pre-tokens. */
function isolate(pattern: RegExp): Stage {
  return (text) => {
    const parts: string[] = text.match(pattern) ?? [];
    let covered = 0;
    for (const part of parts) covered += part.length;
    // The expressions of the GPT family cover every text; asking for places as well would cost twice the time.
    return covered === text.length ? parts : isolateWithGaps(text, pattern);
  };
}

function isolateWithGaps(text: string, pattern: RegExp): string[] {
  const parts: string[] = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > from) parts.push(text.slice(from, match.index));
    if (match[0] !== "") parts.push(match[0]);
    from = match.index + match[0].length;
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}

/** A split expression of the GPT family in JavaScript: \s is Unicode's White_Space (JavaScript's own counts U+FEFF and
 *  lacks U+0085), and the contraction group is spelled out with the long s that folds to s.
 *  Any construct outside the few that these expressions use gives null. */
export function translateRegex(source: string): RegExp | null {
  const rest = source.replaceAll(contractions, "(?:s)");
  if (!knownSyntax.test(rest)) return null;
  const spelled = source
    .replaceAll(contractions, "(?:'[sS\u017f]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
    .replaceAll("\\s", "\\p{White_Space}")
    .replaceAll("\\S", "\\P{White_Space}");
  try {
    return new RegExp(spelled, "gu");
  } catch {
    return null;
  }
}

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/** Literals, classes of them, \p{L..} \p{N..} \p{M} and the like, \s \S \r \n, groups, (?!, greedy quantifiers. */
const knownSyntax =
  /^(?:\\[pP]\{(?:L|Lu|Ll|Lt|Lm|Lo|M|N|Nd|P|S)\}|\\[sSrn/]|\[\^?(?:\\[pP]\{(?:L|Lu|Ll|Lt|Lm|Lo|M|N|Nd|P|S)\}|\\[sSrn/]|[ /'])+\]|\((?!\?)|\(\?:|\(\?!|\)|[ /'a-z|]|[?*+](?![+?])|\{\d+(?:,\d*)?\}(?![+?]))*$/;

const gpt2 = translateRegex(
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
)!;
