/** Anthropic's HH pairs: `{chosen, rejected}`, transcripts of `\n\nHuman:` and `\n\nAssistant:` paragraphs.
 *  Always: what both sides share is the prompt, so that only what differs carries a marker (60 % of the answers of rejected
 *  sides are shared); a name inside a paragraph begins no turn; no question ever becomes an answer. */
import { preferenceFormat, transcript } from "../formats/preference.ts";
import {
  contentText,
  preferenceOfConversations,
  readText,
  RecordFault,
  type PreferenceRecord,
} from "../record.ts";
import { koalaSides } from "./koala_hh.ts";
import type { Source } from "./source.ts";
import { regularTurns } from "./turns.ts";

export const hhSource: Source = {
  name: "hh",
  about: "Anthropic's helpful and harmless comparisons: two transcripts, one of them preferred.",
  keys: "chosen and rejected, transcripts of Human: and Assistant:",
  licence: "MIT",
  options: {
    split: {
      about: "A name begins a turn at the start of a paragraph, or anywhere as in Koala's pipeline.",
      type: "string",
      default: "paragraph",
      choices: ["paragraph", "anywhere"],
    },
    echo: {
      about: "A question without a reply becomes its own answer, as in Koala's pipeline.",
      type: "boolean",
      default: false,
    },
  },
  matches: (value) =>
    preferenceFormat.matches(value, {}) && isTranscript(value.chosen) && isTranscript(value.rejected),
  parse(value, { split, echo }) {
    if (split === "anywhere" || echo === true) {
      const faults = { anywhere: split === "anywhere", echo: echo === true };
      return koalaSides(readText(value, "chosen"), readText(value, "rejected"), faults);
    }
    const [chosen, rejected] = (["chosen", "rejected"] as const).map((side) =>
      regularTurns(transcript(readText(value, side), side)),
    ) as [ReturnType<typeof regularTurns>, ReturnType<typeof regularTurns>];
    if (chosen.messages[0]?.role !== "user" || rejected.messages[0]?.role !== "user")
      throw new RecordFault("a side does not begin with a question");
    const record = preferenceOfConversations(chosen.messages, rejected.messages).record as PreferenceRecord;
    for (const side of ["chosen", "rejected"] as const)
      if (contentText(record[side].at(-1)!) === "") throw new RecordFault(`the last ${side} answer is empty`);
    return [{ record, repairs: [...new Set([...chosen.repairs, ...rejected.repairs])] }];
  },
};

const isTranscript = (text: unknown): boolean =>
  typeof text === "string" && /^\s*(Human|Assistant):/.test(text);
