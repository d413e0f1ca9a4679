/** Vocabularies for tests of constrained decoding, and ways to draw from them. Same seed, same result. */
import type { Vocabulary } from "../../src/engine/grammar.ts";

/** xorshift32 in [0, 1). */
export function seededRandom(seed: number): () => number {
  let x = (seed * 2654435761) >>> 0 || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x = (x ^ (x << 5)) >>> 0;
    return x / 2 ** 32;
  };
}

export function pick<T>(items: readonly T[], random: () => number): T {
  return items[Math.floor(random() * items.length)]!;
}

/** Tokens that cross the borders of JSON's parts, as real vocabularies have them. */
export const jointTokens = [
  '{"', '"}', '":', '":"', '": "', '","', '", "', '"},{"', '"},', '}]', '"]', '["', '[]', '{}', '},', '],', ',"', '.\n', '\n', '\n  ',
  '\n    ', '  ', '    ', 'true', 'false', 'null', ': ', ', ', '":[', '":{', '\\"', '\\n', '\\u', '\\u00', '00', '12', '123', '0.', '-1',
  'e+', 'é', 'ü', 'ñ', '中', '文', '中文', '😀', 'naïve', 'name', 'age', 'id', '"id"', '"name":"', "the", " the", "ab", "abc", "aa", "a".repeat(15), "a".repeat(16), "a".repeat(17), "a".repeat(40), "=".repeat(64), " ".repeat(20), "é".repeat(12), `${"x".repeat(18)}"]`, `"${"y".repeat(19)}`,
]; // prettier-ignore

/** Id i is byte i for i < 256; then joint tokens, halves of characters, made-up words up to `size`; two special ids last. */
export function syntheticVocabulary(size: number): Vocabulary {
  const random = seededRandom(7);
  const encoder = new TextEncoder();
  const seen = new Set<string>();
  const bytes = Array.from({ length: 256 }, (_, i) => Uint8Array.of(i));
  bytes.push(
    Uint8Array.of(0xf0, 0x9f),
    Uint8Array.of(0x98, 0x80),
    Uint8Array.of(0xe4, 0xb8),
    Uint8Array.of(0xad, 0x22),
    Uint8Array.of(0x41),
  );
  for (const text of jointTokens) bytes.push(encoder.encode(text));
  while (bytes.length < size - 2) {
    const text = syntheticWord(random);
    if (seen.has(text)) continue;
    seen.add(text);
    bytes.push(encoder.encode(text));
  }
  bytes.push(new Uint8Array(), new Uint8Array());
  return { bytes, endIds: [bytes.length - 2] };
}

const syllables = "a an ar be ca co de di e en er es ge i in is it ka la le li lo ma me mi na ne ni no o on or ra re ri ro s se si st ta te ti to u ul un ve y".split(" "); // prettier-ignore

function syntheticWord(random: () => number): string {
  const kind = random();
  let word = "";
  if (kind < 0.06) return Array.from({ length: 1 + Math.floor(random() * 3) }, () => pick(['"', ",", ":", "{", "}", "[", "]", " ", "\\", "/", "\n", "(", ")", ";", "=", ".", "<", ">"], random)).join(""); // prettier-ignore
  if (kind < 0.12) return String.fromCodePoint(...Array.from({ length: 1 + Math.floor(random() * 3) }, () => 0x4e00 + Math.floor(random() * 5000))); // prettier-ignore
  if (kind < 0.14) return String(Math.floor(random() * 1000));
  const length = 1 + Math.floor(random() * 4);
  for (let i = 0; i < length; i++) word += pick(syllables, random);
  if (kind < 0.3) word = word[0]!.toUpperCase() + word.slice(1);
  if (kind < 0.36) word += pick(['"', '",', '":', ".", ",", "'s"], random);
  return random() < 0.5 ? ` ${word}` : word;
}

export function isAllowed(mask: Uint32Array, id: number): boolean {
  return ((mask[id >> 5]! >>> (id & 31)) & 1) === 1;
}

export function allowedIds(mask: Uint32Array): number[] {
  const ids: number[] = [];
  for (const [word, bits] of mask.entries()) {
    for (let rest = bits; rest !== 0; rest &= rest - 1) ids.push(word * 32 + 31 - Math.clz32(rest & -rest));
  }
  return ids;
}

export function sampleToken(mask: Uint32Array, random: () => number): number {
  return pick(allowedIds(mask), random);
}
