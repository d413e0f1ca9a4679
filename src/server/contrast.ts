/** Contrastive decoding of a chat request: the same dialogue behind a second marker, and how far to push away from it.
 *
 *  With the logits a behind the request's marker and b behind the other, the next token is drawn from a + strength * (a - b),
 *  among tokens of at least `plausibility` times the best one's probability under a (Li et al. 2022). Seen from b it is
 *  classifier-free guidance with the scale 1 + strength. Strength 0 is the plain answer, bit for bit, and is run as one. */

import type { ContrastRequest } from "../engine/messages.ts";
import { idsOf } from "../text/segments.ts";
import { RequestError } from "../util/errors.ts";
import type { ServedModel } from "./context.ts";
import { isSet, renderChat, type ChatPrompt } from "./prompt.ts";

export interface ContrastFields {
  contrast?: { strength: number; marker?: string | null; plausibility?: number | null } | null;
}

/** Of Li et al.: a tenth of the best token's probability. */
const usualPlausibility = 0.1;

/** null where the request asks for none. `prompt` is the dialogue behind the request's own marker. */
export function contrastOf(
  model: ServedModel,
  chat: ChatPrompt & ContrastFields,
  prompt: readonly number[],
): ContrastRequest | null {
  const { contrast } = chat;
  if (!isSet(contrast)) return null;
  const { strength, plausibility } = contrast;
  const marker = contrast.marker ?? "negative";
  const against = idsOf(renderChat(model, { ...chat, marker }));
  if (against.length === prompt.length && against.every((id, index) => id === prompt[index]))
    throw new RequestError(
      `contrast needs two markers, but the answer is asked for with ${JSON.stringify(marker)} already; name another in marker or contrast.marker.`,
      { param: "contrast.marker", code: "invalid_value" },
    );
  return strength === 0
    ? null
    : { prompt: against, strength, plausibility: plausibility ?? usualPlausibility };
}
