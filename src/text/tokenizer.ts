/** Text to token ids and back, from the files of a Hugging Face folder: our own exact BPE for the LLaMA kinds,
 *  @huggingface/tokenizers' models for the rest; added tokens, decoding and streams are one code for both.
 *  Decided by the file's content, never by its name: whatever is not known exactly goes to the library. */
import { AddedTokenSplitter, type Part } from "./added_tokens.ts";
import { Bpe } from "./bpe.ts";
import { compileLibrary } from "./library_model.ts";
import { compileNormalizer, compilePreTokenizer } from "./pretokenizer.ts";
import { compileByteRule, compileDecoder, type ByteRule } from "./token_decoder.ts";
import { idOf, readTokenizerFile, type TokenizerFile } from "./tokenizer_file.ts";

export interface EncodeOptions {
  /** BOS and the like around the text, as the tokenizer's template says (default true). */
  addSpecialTokens?: boolean;
  /** Special tokens written in the text are these tokens (default true, as in transformers) or plain text (false). */
  parseSpecial?: boolean;
  /** A character that is removed after special tokens were looked for: a literal with it inside is plain text. */
  sentinel?: string;
}

export interface Tokenizer {
  /** Greatest id plus one. */
  readonly vocabularySize: number;
  readonly specialTokens: { bos: string | null; eos: string | null; unk: string | null; pad: string | null };
  readonly bosId: number | null;
  readonly eosIds: number[];
  /** How ids become text in a stream; null where only whole sequences can be decoded. */
  readonly byteRule: ByteRule | null;
  /** Who encodes: "bpe" is ours, "library" @huggingface/tokenizers. */
  readonly engine: "bpe" | "library";
  encode(text: string, options?: EncodeOptions): number[];
  /** As tokenizers' decode, without transformers' cleaning of spaces; unknown ids are left out. */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
  /** The token as it stands in the vocabulary; "" for an unknown id. */
  tokenString(id: number): string;
  /** The bytes it adds to a text (special tokens and unknown ids: empty). */
  tokenBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
  /** The id of a token as it stands in the vocabulary. */
  tokenId(token: string): number | null;
  /** Special tokens as they are written in a text. */
  readonly specialLiterals: readonly string[];
}

/** Encodes one part of a text that holds no added token. */
export interface TextModel {
  engine: "bpe" | "library";
  normalize(text: string): string;
  /** `first`: the part stands at the beginning of the whole text. */
  encode(text: string, first: boolean, out: number[]): void;
  decode(pieces: string[]): string;
}

export async function loadTokenizer(directory: string): Promise<Tokenizer> {
  return createTokenizer(await readTokenizerFile(directory));
}

export function createTokenizer(file: TokenizerFile): Tokenizer {
  const model = compileBpe(file) ?? compileLibrary(file);
  return new PipelineTokenizer(file, model);
}

function compileBpe(file: TokenizerFile): TextModel | null {
  const { json } = file;
  const model = json.model as { [key: string]: unknown };
  if (
    file.modelType !== "BPE" ||
    model.dropout ||
    model.continuing_subword_prefix ||
    model.end_of_word_suffix
  )
    return null;
  const normalize = compileNormalizer(json.normalizer);
  const preTokenizer = compilePreTokenizer(json.pre_tokenizer);
  const decode = compileDecoder(json.decoder);
  if (!normalize || !preTokenizer || !decode) return null;
  const bpe = new Bpe({
    vocabulary: file.vocabulary,
    pieces: file.pieces,
    merges: file.merges,
    byteLevel: preTokenizer.byteLevel,
    byteFallback: model.byte_fallback === true,
    ignoreMerges: model.ignore_merges === true,
    fuseUnk: model.fuse_unk === true,
    unkId: file.unkId,
  });
  const encode = (text: string, first: boolean, out: number[]): void => {
    for (const piece of preTokenizer.split(text, first)) bpe.encode(piece, out);
  };
  return { engine: "bpe", normalize, encode, decode };
}

const noBytes = new Uint8Array(0);

class PipelineTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly specialTokens: Tokenizer["specialTokens"];
  readonly bosId: number | null;
  readonly eosIds: number[];
  readonly byteRule: ByteRule | null;
  readonly engine: "bpe" | "library";
  readonly specialLiterals: readonly string[];
  private readonly pieces: (string | undefined)[];
  private readonly specialIds: Set<number>;
  private readonly withSpecials: Splitters;
  private readonly withoutSpecials: Splitters;
  private readonly bytes: (Uint8Array | undefined)[] = [];

  private readonly file: Pick<TokenizerFile, "prefix" | "suffix" | "addedTokens" | "vocabulary">;

  constructor(
    file: TokenizerFile,
    private readonly model: TextModel,
  ) {
    // The parsed JSON is not kept: of a large vocabulary it would be a hundred megabytes.
    const { prefix, suffix, addedTokens, vocabulary } = file;
    this.file = { prefix, suffix, addedTokens, vocabulary };
    this.vocabularySize = file.pieces.length;
    this.specialTokens = file.specialTokens;
    this.bosId = idOf(file, file.specialTokens.bos);
    this.eosIds = file.eosIds;
    this.byteRule = compileByteRule(file.json.decoder);
    this.engine = model.engine;
    this.pieces = [...file.pieces];
    // tokenizers 0.23 shows a normalized added token as its normalized self, marks included.
    for (const token of file.addedTokens)
      if (token.normalized) this.pieces[token.id] = model.normalize(token.content);
    const specials = file.addedTokens.filter((token) => token.special);
    this.specialIds = new Set(specials.map((token) => token.id));
    this.specialLiterals = specials.map((token) => token.content);
    this.withSpecials = createSplitters(file, model, () => true);
    this.withoutSpecials = createSplitters(file, model, (special) => !special);
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const { addSpecialTokens = true, parseSpecial = true, sentinel } = options;
    const splitters = parseSpecial ? this.withSpecials : this.withoutSpecials;
    const out = addSpecialTokens ? [...this.file.prefix] : [];
    for (const part of splitters.raw.split(text.isWellFormed() ? text : text.toWellFormed())) {
      if (part.id !== null) out.push(part.id);
      else this.encodePart(part, splitters, sentinel, out);
    }
    if (addSpecialTokens) out.push(...this.file.suffix);
    return out;
  }

  private encodePart(raw: Part, splitters: Splitters, sentinel: string | undefined, out: number[]): void {
    for (const part of splitters.normalized.split(this.model.normalize(raw.text))) {
      if (part.id !== null) out.push(part.id);
      else {
        const text = sentinel ? part.text.replaceAll(sentinel, "") : part.text;
        this.model.encode(text, raw.start === 0 && part.start === 0, out);
      }
    }
  }

  decode(ids: readonly number[], options: { skipSpecialTokens?: boolean } = {}): string {
    const pieces: string[] = [];
    for (const id of ids) {
      const piece = this.pieces[id];
      if (piece === undefined || (options.skipSpecialTokens && this.specialIds.has(id))) continue;
      pieces.push(piece);
    }
    return pieces.length === 0 ? "" : this.model.decode(pieces);
  }

  tokenString(id: number): string {
    return this.pieces[id] ?? "";
  }

  tokenBytes(id: number): Uint8Array {
    const piece = this.pieces[id];
    if (piece === undefined || this.specialIds.has(id)) return noBytes;
    return (this.bytes[id] ??= this.computeBytes(id, piece));
  }

  private computeBytes(id: number, piece: string): Uint8Array {
    return this.byteRule ? this.byteRule.bytes(piece) : new TextEncoder().encode(this.decode([id]));
  }

  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  tokenId(token: string): number | null {
    return idOf(this.file, token);
  }
}

interface Splitters {
  raw: AddedTokenSplitter;
  normalized: AddedTokenSplitter;
}

function createSplitters(
  file: TokenizerFile,
  model: TextModel,
  keep: (special: boolean) => boolean,
): Splitters {
  const tokens = file.addedTokens.filter((token) => keep(token.special));
  const entries = (normalized: boolean) =>
    tokens
      .filter((token) => token.normalized === normalized)
      .map((token) => ({ literal: normalized ? model.normalize(token.content) : token.content, token }));
  return { raw: new AddedTokenSplitter(entries(false)), normalized: new AddedTokenSplitter(entries(true)) };
}
