/** HC3 (Guo et al. 2023): questions with answers of people and of ChatGPT, one dialogue an answer.
 *  Koala's code read only the human half, through OIG; the post counts both. Human Reddit answers train style as much as
 *  content, so they can be left out. */
import type { Json, JsonObject } from "../../text/tokenizer_file.ts";
import { readText, RecordFault } from "../record.ts";
import type { Source, SourceItem } from "./source.ts";
import { exchange } from "./turns.ts";

/** HC3's README: the parts were taken from sets with licences of their own. */
const licences: { [origin: string]: string } = {
  reddit_eli5: "BSD",
  open_qa: "Papers with Code custom",
  wiki_csai: "CC-BY-SA",
  medicine: "unknown",
  finance: "unknown",
};

export const hc3Source: Source = {
  name: "hc3",
  about: "HC3: questions with answers of people and of ChatGPT, one dialogue an answer.",
  keys: "question, human_answers and chatgpt_answers",
  licence: "CC-BY-SA-4.0",
  options: {
    human_answers: { about: "Keep the answers of people.", type: "boolean", default: true },
    chatgpt_answers: { about: "Keep the answers of ChatGPT.", type: "boolean", default: true },
  },
  matches: (value) => Array.isArray(value.human_answers) || Array.isArray(value.chatgpt_answers),
  parse(value, options, file) {
    const question = readText(value, "question");
    if (question.trim() === "") throw new RecordFault("the question is empty");
    const origin = originOf(value, file);
    const of = (writer: "human" | "chatgpt"): SourceItem[] =>
      options[`${writer}_answers`] === false
        ? []
        : answers(value[`${writer}_answers`], writer).map((answer) => ({
            record: exchange(question, answer),
            tags: { answer: writer, ...(origin === null ? {} : { origin }) },
            ...(origin !== null && licences[origin] ? { licence: licences[origin] } : {}),
          }));
    const items = [...of("human"), ...of("chatgpt")];
    if (items.length === 0) throw new RecordFault("no answer is left");
    return items;
  },
};

/** `all.jsonl` says it in the record, the files of one origin by their name. */
function originOf(value: JsonObject, file: string | undefined): string | null {
  if (typeof value.source === "string" && value.source !== "") return value.source;
  return Object.keys(licences).find((origin) => file?.includes(origin)) ?? null;
}

function answers(value: Json | undefined, writer: string): string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value) || !value.every((answer) => typeof answer === "string"))
    throw new RecordFault(`${writer}_answers is not a list of texts`);
  return value.map((answer) => answer.trim()).filter((answer) => answer !== "");
}
