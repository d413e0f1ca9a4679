/** WebGPT's comparisons: a question and two answers, each with the quotes that its browser collected.
 *  Always: ties are dropped; an answer stands behind its own quotes, so with quotes the two are dialogues of their own with
 *  opposite markers, and a pair only without. Task phrases and quotes read as in Koala's data. */
import { isObject, type Json, type JsonObject } from "../../text/tokenizer_file.ts";
import { RecordFault, type PreferenceRecord } from "../record.ts";
import type { Source, SourceItem } from "./source.ts";
import { exchange, phraseFor } from "./turns.ts";

const tasks = [
  "Quote the following sources in your answer: ",
  "Use the following sources in your answer: ",
  "You may use the following sources in your answer: ",
  "You may quote the following sources in your answer: ",
  "The following sources may be helpful: ",
] as const;

export const webgptSource: Source = {
  name: "webgpt",
  about: "WebGPT's comparisons: two answers to a question, with quotes of web pages.",
  keys: "a list of two {question, quotes, answer, score}, or question, answer_0, score_0, answer_1, score_1",
  licence: null,
  options: {
    quotes: {
      about: "Each answer behind its own quotes, or questions alone as pairs.",
      type: "string",
      default: "own",
      choices: ["own", "none"],
    },
    compat: { about: "Spaces exactly as in Koala's records.", type: "boolean", default: false },
    seed: { about: "Chooses the task phrases.", type: "number", default: 0 },
  },
  matches: (value) =>
    ("answer_0" in value && "score_0" in value) ||
    (Array.isArray(value.list) &&
      value.list.length === 2 &&
      isObject(value.list[0]) &&
      "score" in value.list[0]),
  parse(value, options) {
    const sides = value.list === undefined ? rowSides(value) : listSides(value.list);
    const [first, second] = sides.map(readSide) as [Side, Side];
    if (first.score === second.score) throw new RecordFault("the two answers have the same score");
    const [better, worse] = first.score > second.score ? [first, second] : [second, first];
    const tags: { [name: string]: string } = better.dataset === null ? {} : { origin: better.dataset };
    if (options.quotes === "none") return [pair(better, worse, tags)];
    const item = (side: Side, marker: "positive" | "negative"): SourceItem => ({
      record: exchange(userText(side, options.compat === true, options.seed), side.answer),
      marker,
      tags,
    });
    return [item(better, "positive"), item(worse, "negative")];
  },
};

interface Side {
  question: string;
  dataset: string | null;
  quotes: { title: string; extract: string }[];
  answer: string;
  score: number;
}

function rowSides(value: JsonObject): JsonObject[] {
  const side = (i: 0 | 1): JsonObject => ({
    question: value.question ?? null,
    quotes: value[`quotes_${i}`] ?? null,
    answer: value[`answer_${i}`] ?? null,
    score: value[`score_${i}`] ?? null,
  });
  return [side(0), side(1)];
}

function listSides(list: Json): JsonObject[] {
  if (!Array.isArray(list) || list.length !== 2 || !list.every(isObject))
    throw new RecordFault("the comparison is not a list of two answers");
  return list;
}

function readSide({ question, quotes, answer, score }: JsonObject): Side {
  if (!isObject(question) || typeof question.full_text !== "string")
    throw new RecordFault("question has no full_text");
  if (typeof answer !== "string" || answer.trim() === "")
    throw new RecordFault("an answer is missing or empty");
  if (typeof score !== "number") throw new RecordFault("a score is missing");
  const dataset = typeof question.dataset === "string" ? question.dataset : null;
  return { question: question.full_text, dataset, quotes: readQuotes(quotes), answer, score };
}

function readQuotes(value: Json | undefined): Side["quotes"] {
  if (value === undefined || value === null) return [];
  if (!isObject(value) || !isTexts(value.title) || !isTexts(value.extract))
    throw new RecordFault("quotes are not lists of titles and extracts");
  const { title, extract } = value;
  if (title.length !== extract.length) throw new RecordFault("quotes have not as many titles as extracts");
  return title.map((text, i) => ({ title: text, extract: extract[i]! }));
}

const isTexts = (value: Json | undefined): value is string[] =>
  Array.isArray(value) && value.every((text) => typeof text === "string");

/** In compat mode the blank behind the last quote stays, and the template's own makes two before `GPT:`. */
function userText({ question, quotes }: Side, compat: boolean, seed: unknown): string {
  if (quotes.length === 0) return question;
  const task = phraseFor(question, tasks, seed);
  const lines = quotes.map(({ title, extract }, i) => `[${i + 1}] title: ${title} content: ${extract}`);
  if (compat) return `${question} ${task}${lines.map((line) => `${line} `).join("")}`;
  return `${question}\n\n${task.trim()}\n${lines.join("\n")}`;
}

function pair(better: Side, worse: Side, tags: { [name: string]: string }): SourceItem {
  if (better.answer === worse.answer) throw new RecordFault("chosen and rejected are the same");
  const answer = (side: Side) => [{ role: "assistant", content: side.answer }];
  const record: PreferenceRecord = {
    kind: "preference",
    messages: [{ role: "user", content: better.question }],
    chosen: answer(better),
    rejected: answer(worse),
    tools: [],
  };
  return { record, tags };
}
