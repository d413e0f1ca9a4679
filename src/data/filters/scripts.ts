/** Which script a text is written in, and which scripts languages are written in.
 *  Always: signs are counted, not words; names are Unicode's. */

/** The script of most of the words' weight; null without letters. Signs of scripts that write a word in one or two signs
 *  weigh three letters, so that Chinese with Latin names and code in it is Chinese. */
export function scriptOf(text: string): { script: string | null; letters: number } {
  const sample = text.length > 20_000 ? text.slice(0, 20_000) : text;
  let letters = 0;
  let latin = 0;
  for (let i = 0; i < sample.length; i++) {
    const code = sample.charCodeAt(i) | 32;
    if (code >= 97 && code <= 122) latin++;
  }
  letters += latin;
  // Nearly all English texts have no other letters and are done here.
  if (!/[^\0-\x7f]/.test(sample)) return { script: latin > 0 ? "Latin" : null, letters };
  let best: [string, number] = ["Latin", latin];
  for (const [name, pattern, weight] of scripts) {
    const count = sample.match(pattern)?.length ?? 0;
    letters += count;
    const total = count * weight + (name === "Latin" ? latin : 0);
    if (total > best[1] || name === best[0]) best = [name, total];
  }
  return { script: best[1] > 0 ? best[0] : null, letters };
}

const scripts = (
  "Latin Cyrillic Greek Hebrew Arabic Devanagari Bengali Gujarati Gurmukhi Kannada Malayalam Oriya Tamil Telugu " +
  "Thai Georgian Armenian Ethiopic Khmer Lao Myanmar Sinhala Han Hiragana Katakana Hangul"
)
  .split(" ")
  .map((name): [string, RegExp, number] => [
    name,
    // ASCII's letters are counted apart.
    new RegExp(name === "Latin" ? "(?![A-Za-z])\\p{Script=Latin}" : `\\p{Script=${name}}`, "gu"),
    /^(?:Han|Hiragana|Katakana|Hangul|Thai)$/.test(name) ? 3 : 1,
  ]);

/** Of eld's languages; those that are absent are written in Latin script. */
export const scriptsOf: { [language: string]: string[] } = {
  am: ["Ethiopic"],
  ar: ["Arabic"],
  be: ["Cyrillic"],
  bg: ["Cyrillic"],
  bn: ["Bengali"],
  el: ["Greek"],
  fa: ["Arabic"],
  gu: ["Gujarati"],
  he: ["Hebrew"],
  hi: ["Devanagari"],
  hy: ["Armenian"],
  ja: ["Han", "Hiragana", "Katakana"],
  ka: ["Georgian"],
  kn: ["Kannada"],
  ko: ["Hangul", "Han"],
  ku: ["Latin", "Arabic"],
  lo: ["Lao"],
  ml: ["Malayalam"],
  mr: ["Devanagari"],
  or: ["Oriya"],
  pa: ["Gurmukhi", "Arabic"],
  ru: ["Cyrillic"],
  sr: ["Cyrillic", "Latin"],
  ta: ["Tamil"],
  te: ["Telugu"],
  th: ["Thai"],
  uk: ["Cyrillic"],
  ur: ["Arabic"],
  zh: ["Han"],
};
