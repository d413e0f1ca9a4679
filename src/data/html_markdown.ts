/** Chat answers that were scraped as HTML, as the Markdown they were rendered from; anything else stays as it is.
 *  Always: text that is not wholly HTML of a rendered answer is handed back untouched: `a < b`, code about HTML, Markdown
 *  with a tag in it. */
import { htmlToMarkdown as convert } from "./sources/html.ts";

export function htmlToMarkdown(text: string): { text: string; changed: boolean } {
  if (!isRenderedAnswer(text)) return { text, changed: false };
  return { text: convert(text), changed: true };
}

/** The tell-tale: it begins with a block's tag, every tag is one that Markdown renders to, every `<` is a tag, and what
 *  opens also closes. ShareGPT's wrapper is such a block with its class names. */
export function isRenderedAnswer(text: string): boolean {
  if (!opening.test(text)) return false;
  let open = 0;
  let last = 0;
  for (const tag of text.matchAll(anyTag)) {
    if (text.slice(last, tag.index).includes("<")) return false;
    last = tag.index + tag[0].length;
    const name = tag[2]!.toLowerCase();
    if (!rendered.has(name)) return false;
    if (!empty.has(name) && !tag[0].endsWith("/>")) open += tag[1] === "/" ? -1 : 1;
    if (open < 0) return false;
  }
  return open === 0 && !text.slice(last).includes("<");
}

const opening = /^\s*<(?:div|p|ul|ol|pre|h[1-6]|table|blockquote)(?:\s[^<>]*)?>/i;
const anyTag = /<(\/?)([a-z][a-z0-9]*)(?:\s[^<>]*)?\/?>/gi;
const empty = new Set(["br", "hr", "img"]);
const rendered = new Set(
  (
    "div p span ul ol li pre code h1 h2 h3 h4 h5 h6 table thead tbody tfoot tr th td blockquote br hr a strong em b i " +
    "u s del sup sub img button svg path circle line polyline rect polygon g"
  ).split(" "),
);
