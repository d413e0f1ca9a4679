/** Dialogues as records of Koala's own data pipeline, which EasyLM's field grammar turns into tokens (koala-spec §1.2, §1.4).
 *  Always: without warts the tokens and their loss are those of the dialogue itself through the Koala format. */
import { plainMessages } from "../text/chat_messages.ts";
import { koalaMarkers, koalaTurns } from "../text/koala_template.ts";
import type { Dialogue } from "./dialogue.ts";
import { RecordFault, type TrainingMessage } from "./record.ts";
import type { Warts } from "./warts.ts";

export interface KoalaRecord {
  marker_user: string;
  marker_gpt: string;
  marker_gpt_bad: string;
  fields: string;
  /** human_0, gpt_1 or gpt_bad_1, human_2, … */
  [turn: string]: string;
}

export interface KoalaExample {
  record: KoalaRecord;
  /** Its trained answers stand behind the negative marker. */
  negative: boolean;
}

export type RecordWarts = Pick<Warts, "negative_marker_everywhere" | "loss_on_shared_turns" | "double_eos">;

/** One record of a conversation, two of a pair: the chosen side and the rejected one. Throws a RecordFault for what the records
 *  cannot say: tools, and weights between 0 and 1. */
export function koalaRecords({ record, marker }: Dialogue, warts: RecordWarts): KoalaExample[] {
  if (record.tools.length > 0) throw new RecordFault("the Koala format has no tools");
  if (record.kind === "chat")
    return [example(record.messages, { shared: 0, negative: marker === "negative", warts })];
  const { messages, chosen, rejected } = record;
  const shared = messages.length;
  return [
    example([...messages, ...chosen], { shared, negative: false, warts }),
    example([...messages, ...rejected], { shared, negative: true, warts }),
  ];
}

interface Side {
  /** Messages that the other side has, too. */
  shared: number;
  negative: boolean;
  warts: RecordWarts;
}

function example(messages: readonly TrainingMessage[], { shared, negative, warts }: Side): KoalaExample {
  const turns: { [key: string]: string } = {};
  const fields: string[] = [];
  koalaTurns(plainMessages(messages)).forEach(({ user, answer, answerIndex }, i) => {
    if (answer === null) return;
    const own = answerIndex >= shared;
    const bad = negative && (own || warts.negative_marker_everywhere);
    const [question, reply] = [`human_${2 * i}`, `${bad ? "gpt_bad" : "gpt"}_${2 * i + 1}`];
    turns[question] = user;
    turns[reply] = answer.content;
    const weight = messages[answerIndex]!.weight ?? 1;
    if (weight !== 0 && weight !== 1)
      throw new RecordFault("the original's records have no weights between 0 and 1");
    const trained = weight === 1 && (own || warts.loss_on_shared_turns);
    const masked = (field: string): string => (trained ? field : `[${field}]`);
    fields.push(`[marker_user+${question}+${bad ? "marker_gpt_bad" : "marker_gpt"}]`);
    fields.push(masked(reply), masked("<|eos|>"));
  });
  if (warts.double_eos) fields.push("<|eos|>");
  return { record: { ...recordMarkers, ...turns, fields: fields.join(",") }, negative };
}

const recordMarkers = {
  marker_user: koalaMarkers.user,
  marker_gpt: koalaMarkers.positive,
  marker_gpt_bad: koalaMarkers.negative,
};
