/** Sentence BLEU as sacrebleu 2.x computes it (signature nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp).
 *  Always: equal to sacrebleu in every step, also in its whitespace: Python's split() knows 0x1c-0x1f and 0x85, not U+FEFF. */

export const maxOrder = 4;

/** From 0 to 100. Of `hypothesis` against one reference, up to 4-grams, smoothing "exp", effective order. */
export function sentenceBleu(
  hypothesis: string,
  reference: string,
  { lowercase = false, smooth = true }: { lowercase?: boolean; smooth?: boolean } = {},
): number {
  const wordsOf = (text: string): string[] => tokenize13a(lowercase ? text.toLowerCase() : text);
  const [h, r] = [wordsOf(hypothesis), wordsOf(reference)];
  const matches: number[] = [];
  for (let order = 1; order <= maxOrder; order++) {
    const counts = ngramCounts(r, order);
    let shared = 0;
    for (const [ngram, count] of ngramCounts(h, order)) shared += Math.min(count, counts.get(ngram) ?? 0);
    matches.push(shared);
  }
  return bleuOfCounts(matches, h.length, r.length, smooth);
}

/** The score from the clipped matches of each order and both lengths.
 *  p_n = 100 c_n / t_n; an order without a match counts 100 / (2^k t_n), k the number of such orders so far; orders that
 *  the hypothesis is too short for end the mean; shorter hypotheses pay exp(1 - |r| / |h|). */
export function bleuOfCounts(
  matches: ArrayLike<number>,
  hypothesisLength: number,
  referenceLength: number,
  smooth = true,
): number {
  let sum = 0;
  let orders = 0;
  let halvings = 1;
  let any = false;
  for (let order = 0; order < maxOrder; order++) {
    if (matches[order]! > 0) any = true;
    const total = hypothesisLength - order;
    if (total <= 0) break;
    orders = order + 1;
    if (matches[order]! > 0) sum += Math.log((100 * matches[order]!) / total);
    else if (smooth) sum += Math.log(100 / ((halvings *= 2) * total));
    else sum = -Infinity;
  }
  if (!any) return 0;
  const brevity = hypothesisLength < referenceLength ? Math.exp(1 - referenceLength / hypothesisLength) : 1;
  return brevity * Math.exp(sum / orders);
}

/** mteval-v13a's tokens, by sacrebleu's own regular expressions. */
export function tokenize13a(text: string): string[] {
  let line = pythonRstrip(text).replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
  if (line.includes("&"))
    line = line
      .replaceAll("&quot;", '"')
      .replaceAll("&amp;", "&")
      .replaceAll("&lt;", "<")
      .replaceAll("&gt;", ">");
  return splitPeriods(` ${line} `.replace(punctuation, " $1 "))
    .split(pythonSpaces)
    .filter((word) => word !== "");
}

/** The three rules about full stops, commas and dashes beside digits; `line` starts and ends with a space. */
export const splitPeriods = (line: string): string =>
  line
    .replace(/([^0-9])([.,])/g, "$1 $2 ")
    .replace(/([.,])([^0-9])/g, " $1 $2")
    .replace(/([0-9])(-)/g, "$1 $2 ");

/** { to ~, [ to `, space to &, ( to +, : to @, /: all of ASCII's punctuation but ' , - . */
const punctuation = /([{-~[-` -&(-+:-@/])/g;

const pythonSpace = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const pythonSpaces = new RegExp(`[${pythonSpace}]+`);
const pythonSpacesAtEnd = new RegExp(`[${pythonSpace}]+$`);

export const isPythonSpace = (character: string): boolean => pythonSpacesAtEnd.test(character);

/** Python's str.rstrip(): JavaScript's trimEnd() takes other characters. */
export const pythonRstrip = (text: string): string =>
  isPythonSpace(text.slice(-1)) ? text.replace(pythonSpacesAtEnd, "") : text;

function ngramCounts(words: readonly string[], order: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + order <= words.length; i++) {
    // No token holds a space.
    const ngram = words.slice(i, i + order).join(" ");
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  return counts;
}
