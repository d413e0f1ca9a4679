/** Preference pairs in today's shapes: `{prompt?, chosen, rejected}` with texts or messages, and LLaMA-Factory's
 *  `{conversations, chosen: {from, value}, rejected}`. */
import { preferenceFormat } from "../formats/preference.ts";
import type { PreferenceRecord } from "../record.ts";
import type { Source } from "./source.ts";

export const pairsSource: Source = {
  name: "pairs",
  about: "Preference pairs with a prompt: texts, messages, or LLaMA-Factory's turns.",
  keys: preferenceFormat.keys,
  licence: null,
  matches: (value) => preferenceFormat.matches(value, {}),
  parse(value) {
    const { record, repairs } = preferenceFormat.parse(value, {});
    return [{ record: record as PreferenceRecord, repairs }];
  },
};
