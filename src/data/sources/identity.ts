/** Identity answers from a template: who the model is and who made it, with `{{name}}` and `{{author}}` to fill in.
 *  A record is a pair in Alpaca's or messages' shape, or a group `{questions: [...], answers: [...]}`, every question with every
 *  answer: Koala's set was three such groups, 9 x 5 + 7 x 7 + 63 x 12 = 850 pairs over 79 questions.
 *  Always: no placeholder is left over. */
import type { Json, JsonObject } from "../../text/tokenizer_file.ts";
import { UsageError } from "../../util/errors.ts";
import { alpacaFormat, alpacaRecord } from "../formats/alpaca.ts";
import { messagesFormat } from "../formats/messages.ts";
import { contentText, RecordFault, type ChatRecord } from "../record.ts";
import type { Source, SourceItem, SourceOptions } from "./source.ts";
import { exchange } from "./turns.ts";

export const identitySource: Source = {
  name: "identity",
  about: "Answers about the model itself, from a template with {{name}} and {{author}}.",
  keys: "questions and answers, instruction and output, or messages, with {{name}} or {{author}}",
  licence: null,
  options: {
    name: { about: "What {{name}} becomes: the model's name.", type: "string" },
    author: { about: "What {{author}} becomes: who trained the model.", type: "string" },
  },
  matches: (value) => isGroup(value) || /\{\{(name|author)\}\}/.test(JSON.stringify(value)),
  parse(value, options) {
    const records = isGroup(value)
      ? product(value)
      : [
          alpacaFormat.matches(value, {})
            ? alpacaRecord(value).record
            : messagesFormat.parse(value, {}).record,
        ];
    return records.map((record): SourceItem => ({ record: filled(record as ChatRecord, options) }));
  },
};

const isGroup = (value: JsonObject): boolean =>
  Array.isArray(value.questions) && Array.isArray(value.answers);

function product({ questions, answers }: JsonObject): ChatRecord[] {
  const texts = (list: Json | undefined, name: string): string[] => {
    if (!Array.isArray(list) || list.length === 0 || !list.every((text) => typeof text === "string"))
      throw new RecordFault(`${name} is not a list of texts`);
    return list;
  };
  return texts(questions, "questions").flatMap((question) =>
    texts(answers, "answers").map((answer) => exchange(question, answer)),
  );
}

function filled(record: ChatRecord, options: SourceOptions): ChatRecord {
  const fill = (text: string): string =>
    text.replace(/\{\{\s*(name|author)\s*\}\}/g, (placeholder, key: string) => {
      const value = options[key];
      if (typeof value === "string" && value !== "") return value;
      throw new UsageError(
        `The identity template holds ${placeholder}, and the recipe does not say what that is. Set ${key} = "..." for this source.`,
      );
    });
  const messages = record.messages.map((message) => ({ ...message, content: fill(contentText(message)) }));
  return { ...record, messages };
}
