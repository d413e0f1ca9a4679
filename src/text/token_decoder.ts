/** Ids' pieces back to text, equal to tokenizers' decoders (ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, and
 *  sequences of them), and the same as a table of bytes for streams. A compile function returns null for other decoders. */
import { alphabetToBytes } from "./bpe.ts";
import { type Json, type JsonObject, isObject } from "./tokenizer_file.ts";

type Step = (pieces: string[]) => string[];

/** How a decoder works token by token: what bytes a piece adds, and what the beginning of a text loses. */
export interface ByteRule {
  bytes(piece: string): Uint8Array;
  /** Up to `count` times `content` goes from the beginning of the text. */
  strip: { content: string; count: number } | null;
  /** The very first piece of a text loses this mark wherever it stands (Metaspace). */
  firstPieceMark: string | null;
}

const textEncoder = new TextEncoder();

export function compileDecoder(json: Json | undefined): ((pieces: string[]) => string) | null {
  if (json === null || json === undefined) return (pieces) => pieces.join(" ");
  const steps = flatten(json)?.map(compileStep);
  if (!steps || steps.includes(null)) return null;
  return (pieces) => steps.reduce((result, step) => step!(result), pieces).join("");
}

/** null where a token's text depends on its neighbours in a way that a table cannot hold. */
export function compileByteRule(json: Json | undefined): ByteRule | null {
  const parts = flatten(json ?? null) ?? [];
  const types = parts.map((part) => part.type).join(" ");
  if (types === "ByteLevel") {
    return {
      bytes: (piece) => alphabetToBytes(piece) ?? textEncoder.encode(piece),
      strip: null,
      firstPieceMark: null,
    };
  }
  if (
    !/^(?:Replace )*(?:ByteFallback )?(?:Replace )*(?:Metaspace|Fuse(?: Strip)?|Metaspace Fuse)$/.test(types)
  )
    return null;
  const perPiece = parts.filter((part) => part.type === "Replace").map(compileStep);
  if (perPiece.includes(null)) return null;
  const metaspace = parts.find((part) => part.type === "Metaspace");
  const mark = metaspace ? markOf(metaspace) : null;
  const last = parts.at(-1)!;
  if (
    last.type === "Strip" &&
    (last.stop !== 0 || typeof last.content !== "string" || typeof last.start !== "number")
  )
    return null;
  const byteFallback = types.includes("ByteFallback");
  return {
    bytes: (piece) => {
      const byte = byteFallback ? fallbackByte(piece) : null;
      if (byte !== null) return Uint8Array.of(byte);
      const text = perPiece.reduce((result, step) => step!(result), [piece])[0]!;
      return textEncoder.encode(mark ? text.replaceAll(mark, " ") : text);
    },
    strip: last.type === "Strip" ? { content: last.content as string, count: last.start as number } : null,
    firstPieceMark: mark !== null && metaspace!.prepend_scheme !== "never" ? mark : null,
  };
}

function flatten(json: Json): JsonObject[] | null {
  if (!isObject(json)) return null;
  if (json.type !== "Sequence") return [json];
  if (!Array.isArray(json.decoders)) return null;
  const parts = json.decoders.map(flatten);
  return parts.includes(null) ? null : parts.flatMap((part) => part!);
}

function compileStep(json: JsonObject): Step | null {
  switch (json.type) {
    case "ByteLevel":
      return byteLevel;
    case "ByteFallback":
      return byteFallback;
    case "Fuse":
      return (pieces) => [pieces.join("")];
    case "Strip": {
      const { content, start, stop } = json;
      if (typeof content !== "string" || typeof start !== "number" || typeof stop !== "number") return null;
      return (pieces) => pieces.map((piece) => strip(piece, content, start, stop));
    }
    case "Replace": {
      const from = isObject(json.pattern) ? json.pattern.String : undefined;
      const to = json.content;
      if (typeof from !== "string" || from === "" || typeof to !== "string") return null;
      return (pieces) => pieces.map((piece) => piece.replaceAll(from, () => to));
    }
    case "Metaspace": {
      const mark = markOf(json);
      const never = json.prepend_scheme === "never";
      return (pieces) => pieces.map((piece, i) => piece.replaceAll(mark, i === 0 && !never ? "" : " "));
    }
    default:
      return null;
  }
}

const markOf = (json: JsonObject): string =>
  typeof json.replacement === "string" ? json.replacement : "\u2581";

/** Invalid UTF-8 becomes one U+FFFD for each maximal part, in Rust as in TextDecoder. */
function byteLevel(pieces: string[]): string[] {
  const bytes: number[] = [];
  for (const piece of pieces)
    for (const byte of alphabetToBytes(piece) ?? textEncoder.encode(piece)) bytes.push(byte);
  return [new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes))];
}

/** A run of byte pieces is its text, or one U+FFFD for each byte when any of it is invalid. */
function byteFallback(pieces: string[]): string[] {
  const out: string[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length > 0) out.push(...decodeRun(run));
    run = [];
  };
  for (const piece of pieces) {
    const byte = fallbackByte(piece);
    if (byte !== null) {
      run.push(byte);
      continue;
    }
    flush();
    out.push(piece);
  }
  flush();
  return out;
}

function decodeRun(run: number[]): string[] {
  try {
    return [new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(run))];
  } catch {
    return run.map(() => "\ufffd");
  }
}

function fallbackByte(piece: string): number | null {
  // Rust's from_str_radix also takes a sign: "<0x+A>" is a byte to it.
  const match = /^<0x([0-9a-fA-F]{2}|\+[0-9a-fA-F])>$/.exec(piece);
  return match ? Number.parseInt(match[1]!, 16) : null;
}

function strip(piece: string, content: string, start: number, stop: number): string {
  const characters = [...piece];
  let from = 0;
  while (from < start && characters[from] === content) from++;
  let to = characters.length;
  while (characters.length - to < stop && to > 0 && characters[to - 1] === content) to--;
  return from < to ? characters.slice(from, to).join("") : "";
}
