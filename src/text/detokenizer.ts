/** Generated ids to text, one at a time: never half a character, O(1) a token.
 *  Always: text(prompt + output) = text(prompt) + everything emitted, so the first word after a prompt keeps its space.
 *  One difference to decode: bytes that are no UTF-8 become U+FFFD at once, where SentencePiece-like decoders, knowing the
 *  whole text, replace each byte of the run. */
import type { ByteRule } from "./token_decoder.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface DetokenizerOptions {
  /** Special tokens add nothing (default true). */
  skipSpecialTokens?: boolean;
  /** Special tokens that show all the same, such as the ones that open a tool call. */
  keep?: ReadonlySet<number>;
  /** The ids before the first pushed one. Without them the output is a text of its own. */
  prompt?: readonly number[];
}

export interface Detokenizer {
  push(id: number): string;
  /** What was held back: half a character at the end becomes U+FFFD. */
  end(): string;
}

export function createDetokenizer(tokenizer: Tokenizer, options: DetokenizerOptions = {}): Detokenizer {
  return tokenizer.byteRule
    ? new ByteDetokenizer(tokenizer, tokenizer.byteRule, options)
    : new WindowDetokenizer(tokenizer, options);
}

/** A character has at most four bytes: that many tokens before the output decide how it begins. */
const contextTokens = 4;
const noBytes = new Uint8Array(0);
const textEncoder = new TextEncoder();

class ByteDetokenizer implements Detokenizer {
  private readonly decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  private readonly skipped: (id: number) => boolean;
  private stripLeft: number;
  private first = true;

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly rule: ByteRule,
    options: DetokenizerOptions,
  ) {
    this.skipped = skipping(tokenizer, options);
    this.stripLeft = rule.strip?.count ?? 0;
    const prompt = (options.prompt ?? []).filter(
      (id) => tokenizer.tokenString(id) !== "" && !this.skipped(id),
    );
    // From the beginning while the beginning's strip is undecided, then only the last tokens matter.
    let at = 0;
    while (at < prompt.length && (this.first || this.stripLeft > 0)) this.push(prompt[at++]!);
    for (const id of prompt.slice(Math.max(at, prompt.length - contextTokens))) this.push(id);
  }

  push(id: number): string {
    const bytes = this.bytesOf(id);
    const text = this.decoder.decode(bytes, { stream: true });
    return this.stripLeft > 0 ? this.strip(text) : text;
  }

  private bytesOf(id: number): Uint8Array {
    const piece = this.tokenizer.tokenString(id);
    if (piece === "" || this.skipped(id)) return noBytes;
    const { firstPieceMark } = this.rule;
    if (this.first && firstPieceMark !== null && piece.includes(firstPieceMark)) {
      this.first = false;
      return textEncoder.encode(piece.replaceAll(firstPieceMark, ""));
    }
    this.first = false;
    return this.tokenizer.isSpecial(id) ? this.rule.bytes(piece) : this.tokenizer.tokenBytes(id);
  }

  private strip(text: string): string {
    const { content } = this.rule.strip!;
    let rest = text;
    while (rest !== "" && this.stripLeft > 0) {
      if (!rest.startsWith(content)) this.stripLeft = 0;
      else {
        rest = rest.slice(content.length);
        this.stripLeft--;
      }
    }
    return rest;
  }

  end(): string {
    const text = this.decoder.decode();
    return this.stripLeft > 0 ? this.strip(text) : text;
  }
}

/** Decodes the last few ids twice, without and with the new one: exact wherever a token's text depends on neighbours near by. */
class WindowDetokenizer implements Detokenizer {
  private window: number[];
  /** How many of the window's ids are already emitted. */
  private emitted: number;
  private readonly skipped: (id: number) => boolean;

  constructor(
    private readonly tokenizer: Tokenizer,
    options: DetokenizerOptions,
  ) {
    this.skipped = skipping(tokenizer, options);
    this.window = (options.prompt ?? []).filter((id) => !this.skipped(id)).slice(-contextTokens * 2);
    this.emitted = this.window.length;
  }

  push(id: number): string {
    if (this.skipped(id)) return "";
    this.window.push(id);
    const { before, after } = this.texts();
    // A half character shows as U+FFFD: wait for the next id, but not for ever, since a text may really hold one.
    const waiting = after.endsWith("\ufffd") && this.window.length - this.emitted < contextTokens;
    if (waiting || after.length <= before.length) return "";
    this.window = this.window.slice(this.emitted);
    this.emitted = this.window.length;
    return after.slice(before.length);
  }

  end(): string {
    const { before, after } = this.texts();
    this.emitted = this.window.length;
    return after.slice(before.length);
  }

  private texts(): { before: string; after: string } {
    return {
      before: this.tokenizer.decode(this.window.slice(0, this.emitted)),
      after: this.tokenizer.decode(this.window),
    };
  }
}

function skipping(
  tokenizer: Tokenizer,
  { skipSpecialTokens = true, keep }: DetokenizerOptions,
): (id: number) => boolean {
  return (id) => skipSpecialTokens && tokenizer.isSpecial(id) && !keep?.has(id);
}

/** One token's text for a list of logprobs: what it adds inside a text; special tokens show as they are written. */
export function tokenText(tokenizer: Tokenizer, id: number): { text: string; bytes: number[] } {
  const bytes = tokenizer.isSpecial(id)
    ? textEncoder.encode(tokenizer.tokenString(id))
    : tokenizer.tokenBytes(id);
  return { text: new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes), bytes: [...bytes] };
}
