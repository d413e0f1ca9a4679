/** Scored tokens in the shapes that clients read: OpenAI's two, and vLLM's for prompts.
 *  Always: a token's own logprob is the same float wherever it stands, so `token == best alternative` can be tested by `==`. */

import type { TokenLogprob } from "../engine/messages.ts";
import { createDetokenizer, tokenText } from "../text/detokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { codePoints, type ScoredToken } from "./generation.ts";
import type { ChatTokenLogprob } from "./schema/chat.ts";
import type { CompletionLogprobs } from "./schema/completions.ts";

/** JSON has no -Infinity; OpenAI writes this for a token that cannot come. */
const IMPOSSIBLE = -9999;
const finite = (logprob: number): number => (Number.isFinite(logprob) ? logprob : IMPOSSIBLE);

/** /v1/completions: four lists of equal length. `shift` is the length of the echoed prompt in code points. */
export function completionLogprobs(
  tokens: readonly ScoredToken[],
  tokenizer: Tokenizer,
  shift: number,
): CompletionLogprobs {
  return {
    tokens: tokens.map((token) => tokenName(tokenizer, token.id)),
    token_logprobs: tokens.map((token) => (token.logprob === null ? null : finite(token.logprob.logprob))),
    top_logprobs: tokens.map((token) =>
      token.logprob === null ? null : alternatives(token.logprob, tokenizer),
    ),
    text_offset: tokens.map((token) => token.offset + shift),
  };
}

/** /v1/chat/completions: one object a token, with its bytes. */
export function chatTokenLogprobs(tokens: readonly ScoredToken[], tokenizer: Tokenizer): ChatTokenLogprob[] {
  const one = (id: number, logprob: number): Omit<ChatTokenLogprob, "top_logprobs"> => {
    const { text, bytes } = tokenText(tokenizer, id);
    return { token: text, logprob: finite(logprob), bytes };
  };
  return tokens
    .filter((token) => token.logprob !== null)
    .map(({ logprob }) => ({
      ...one(logprob!.id, logprob!.logprob),
      top_logprobs: logprob!.top.map(([id, value]) => one(id, value)),
    }));
}

/** vLLM's prompt_logprobs: by token id, the prompt's own token among the best. */
export function promptLogprobs(
  scores: readonly (TokenLogprob | null)[],
  tokenizer: Tokenizer,
): (Record<string, { logprob: number; rank: number | null; decoded_token: string }> | null)[] {
  return scores.map((score) => {
    if (score === null) return null;
    const entries = score.top.map(([id, logprob], i) => [id, logprob, i + 1] as const);
    if (!score.top.some(([id]) => id === score.id)) entries.push([score.id, score.logprob, score.rank]);
    return Object.fromEntries(
      entries.map(([id, logprob, rank]) => [
        String(id),
        { logprob: finite(logprob), rank, decoded_token: tokenName(tokenizer, id) },
      ]),
    );
  });
}

/** The prompt's tokens as the beginning of an echoed answer. */
export function scoredPrompt(
  ids: readonly number[],
  scores: readonly (TokenLogprob | null)[] | null,
  tokenizer: Tokenizer,
  skipSpecialTokens: boolean,
): { tokens: ScoredToken[]; text: string } {
  const detokenizer = createDetokenizer(tokenizer, { skipSpecialTokens });
  let text = "";
  let offset = 0;
  const tokens = ids.map((id, i) => {
    const token = { id, logprob: scores?.[i] ?? null, offset };
    const added = detokenizer.push(id);
    text += added;
    offset += codePoints(added);
    return token;
  });
  return { tokens, text: text + detokenizer.end() };
}

/** Best first, so of two tokens with the same name the likelier one stays. The chosen token is always there. */
function alternatives(logprob: TokenLogprob, tokenizer: Tokenizer): Record<string, number> {
  const named = new Map<string, number>();
  for (const [id, value] of [...logprob.top, [logprob.id, logprob.logprob] as const]) {
    const name = tokenName(tokenizer, id);
    if (!named.has(name)) named.set(name, finite(value));
  }
  return Object.fromEntries(named);
}

/** A token's text; one that is no whole character as its bytes, which JSON could not carry otherwise. */
export function tokenName(tokenizer: Tokenizer, id: number): string {
  const { text, bytes } = tokenText(tokenizer, id);
  if (!text.includes("\ufffd") || isReplacement(bytes)) return text;
  return `bytes:${bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
}

/** U+FFFD itself may be a token. */
const isReplacement = (bytes: readonly number[]): boolean => bytes.join() === "239,191,189";
