/** A document's tokens for the eye: turns on lines of their own, trained tokens coloured (or in ⟦ ⟧ without colour). */
import type { Segment } from "../text/segments.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export function paintDocument(segments: readonly Segment[], tokenizer: Tokenizer, colour: boolean): string {
  const lines = segments.map((segment) => {
    const { ids, loss, source, turn } = segment;
    const weight = loss > 0 && loss !== 1 ? `, weight ${loss}` : "";
    const name = turn < 0 ? source : `${source} ${turn}`;
    const head = `${name} (${ids.length} ${ids.length === 1 ? "token" : "tokens"}${weight})`;
    const painted = colour ? paintColoured(segment, tokenizer) : paintPlain(segment, tokenizer);
    return `  ${head.padEnd(26)} ${painted}`;
  });
  const trained = segments.reduce((sum, { ids, loss }) => sum + (loss > 0 ? ids.length : 0), 0);
  const all = segments.reduce((sum, { ids }) => sum + ids.length, 0);
  return [...lines, `  ${trained} of ${all} tokens are trained on`].join("\n");
}

const reset = "\x1b[0m";
/** Two shades by turns, so that the borders of tokens show. */
const trainedShades = ["\x1b[30;42m", "\x1b[30;102m"];
const otherShades = ["\x1b[2m", ""];

function paintColoured({ ids, loss }: Segment, tokenizer: Tokenizer): string {
  const shades = loss > 0 ? trainedShades : otherShades;
  return pieces(ids, tokenizer)
    .map((piece, i) => `${shades[i % 2]}${piece}${reset}`)
    .join("");
}

function paintPlain({ ids, loss }: Segment, tokenizer: Tokenizer): string {
  const text = pieces(ids, tokenizer).join("|");
  return loss > 0 && ids.length > 0 ? `⟦${text}⟧` : text;
}

/** Each token as its text. Tokens that hold part of a character show their bytes; control characters are spelled out, so
 *  that data cannot write to the terminal. */
function pieces(ids: readonly number[], tokenizer: Tokenizer): string[] {
  return ids.map((id) => {
    if (tokenizer.isSpecial(id)) return tokenizer.tokenString(id);
    const bytes = Buffer.from(tokenizer.tokenBytes(id));
    const text = bytes.toString();
    if (text.includes("\ufffd")) return `<${bytes.toString("hex")}>`;
    return text.replace(/[\p{Cc}\p{Cf}]/gu, (character) =>
      character === "\n" ? "\\n" : `\\u{${character.codePointAt(0)!.toString(16)}}`,
    );
  });
}
