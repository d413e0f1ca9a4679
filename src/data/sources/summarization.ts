/** OpenAI's summary comparisons: a Reddit post (TL;DR) or a news article (CNN/DM), two summaries and a choice.
 *  Always: both summaries stand behind the same question; ratings along axes are no comparisons and are dropped as such.
 *  Koala called Reddit posts news articles and asked for "None" where it met one; here the phrase fits the text. */
import { isObject, type JsonObject } from "../../text/tokenizer_file.ts";
import { preferenceRecord, readText, RecordFault, type PreferenceRecord } from "../record.ts";
import type { Source } from "./source.ts";
import { phraseFor } from "./turns.ts";

const articlePhrases = [
  "Write a summary of the following article: ",
  "Summarize the following article: ",
  "Here is a news article, please summarize it: ",
] as const;
const textPhrases = [
  "Generate a summary of the following text: ",
  "Summarize the following text: ",
  "Write a summary of the following text: ",
  "Please write a summary of the following paragraph: ",
  "Please summarize the following paragraph: ",
] as const;

export const summarizationSource: Source = {
  name: "summarization",
  about: "OpenAI's comparisons of summaries of Reddit posts and news articles.",
  keys: "info (with post or article), summaries and choice",
  licence: "modified MIT",
  options: {
    phrases: {
      about: "Phrases that fit the text, or any of the eight as in Koala's records.",
      type: "string",
      default: "fitting",
      choices: ["fitting", "koala"],
    },
    seed: { about: "Chooses the task phrases.", type: "number", default: 0 },
  },
  matches: (value) => isObject(value.info) && ("summaries" in value || "summary" in value),
  parse(value, { phrases, seed }) {
    if (isObject(value.summary)) throw new RecordFault("a rating along axes is no comparison");
    const { info, choice } = value;
    if (!isObject(info)) throw new RecordFault("info is missing");
    const isArticle = typeof info.article === "string";
    const text = readText(info, isArticle ? "article" : "post");
    if (text.trim() === "") throw new RecordFault("the text to summarise is empty");
    const summaries = readSummaries(value);
    if (choice !== 0 && choice !== 1) throw new RecordFault("choice is neither 0 nor 1");
    const fitting = isArticle ? articlePhrases : textPhrases;
    const phrase = phraseFor(text, phrases === "koala" ? [...articlePhrases, ...textPhrases] : fitting, seed);
    const answer = (i: number) => [{ role: "assistant", content: summaries[i]! }];
    const question = { role: "user", content: `${phrase}${text}` };
    const { record } = preferenceRecord([question], answer(choice), answer(1 - choice));
    return [{ record: record as PreferenceRecord, tags: tagsOf(value, info, isArticle) }];
  },
};

function readSummaries({ summaries }: JsonObject): string[] {
  if (!Array.isArray(summaries) || summaries.length !== 2) throw new RecordFault("summaries are not two");
  return summaries.map((summary) => {
    const text = isObject(summary) ? readText(summary, "text").trim() : "";
    if (text === "") throw new RecordFault("a summary is missing or empty");
    return text;
  });
}

function tagsOf(value: JsonObject, info: JsonObject, isArticle: boolean): { [name: string]: string } {
  const tags: { [name: string]: string } = { origin: isArticle ? "cnn_dm" : "tldr" };
  for (const key of ["split", "batch"]) if (typeof value[key] === "string") tags[key] = value[key];
  for (const key of ["subreddit", "site"]) if (typeof info[key] === "string") tags[key] = info[key];
  if (isObject(value.extra) && typeof value.extra.confidence === "number")
    tags.confidence = String(value.extra.confidence);
  return tags;
}
