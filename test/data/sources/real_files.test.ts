import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { userTurns, type Dialogue } from "../../../src/data/dialogue.ts";
import { contentText, type PreferenceRecord } from "../../../src/data/record.ts";
import {
  readDialogues,
  type ReadDialogue,
  type ReadDialogueOptions,
} from "../../../src/data/sources/read.ts";
import { sharedDirectory, withoutShared } from "../../support/paths.ts";

const data = join(sharedDirectory, "data");
const read = (name: string, options: ReadDialogueOptions = {}): Promise<ReadDialogue[]> =>
  Array.fromAsync(readDialogues(join(data, name), options));
const dialogues = (all: ReadDialogue[]): Dialogue[] =>
  all.flatMap((one) => (one.verdict === "dropped" ? [] : [one.dialogue]));
const sourcesOf = (all: ReadDialogue[]): string[] => [...new Set(dialogues(all).map(({ source }) => source))];

/** Verdicts and reasons, counted. */
function verdicts(all: ReadDialogue[]): { [verdict: string]: number } {
  const counts: { [verdict: string]: number } = {};
  for (const one of all) {
    const key =
      one.verdict === "ok" ? "ok" : one.verdict === "repaired" ? one.reason : `dropped: ${one.drop.reason}`;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
}

describe.skipIf(!existsSync(data))(`Anthropic's HH, half of harmless-base/test (${withoutShared})`, () => {
  interface Pair {
    chosen: string;
    rejected: string;
  }
  type Turn = [speaker: string, text: string];

  async function rawPairs(): Promise<Pair[]> {
    const packed = await Bun.file(join(data, "hh_harmless_base_a.jsonl.gz")).bytes();
    const text = Buffer.from(Bun.gunzipSync(packed)).toString();
    return text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Pair);
  }

  /** Apart from our parser: paragraph by paragraph, a new turn where one begins with a name. */
  function strict(text: string): Turn[] {
    const turns: Turn[] = [];
    for (const paragraph of text.replace(/^\n\n/, "").split("\n\n")) {
      const name = ["Human", "Assistant"].find(
        (candidate) =>
          /^:( |\n|$)/.test(paragraph.slice(candidate.length)) && paragraph.startsWith(candidate),
      );
      if (name) turns.push([name, paragraph.slice(name.length + 1)]);
      else turns.at(-1)![1] += `\n\n${paragraph}`;
    }
    return turns.map(([speaker, words]) => [speaker, words.trim()]);
  }

  /** koala_data_pipeline's rule in words: split at every "Human:", each piece at "Assistant:", of which two pieces are kept;
   *  a piece without an answer stands for its answer, too. Even ones are questions. */
  function pipeline(text: string): Turn[] {
    return text
      .split("Human:")
      .slice(1)
      .flatMap((piece) => {
        const [question, answer = question] = piece.split("Assistant:").map((words) => words.trim());
        return [["Human", question!] as Turn, ["Assistant", answer!] as Turn];
      });
  }

  const speakers = (turns: Turn[]): string => turns.map(([speaker]) => speaker[0]).join("");

  test("verdicts: of 1156 pairs the odd ones are told, each with its reason", async () => {
    const all = await read("hh_harmless_base_a.jsonl.gz");
    const pairs = await rawPairs();
    const sides = pairs.map(({ chosen, rejected }) => [strict(chosen), strict(rejected)] as const);
    const emptyEnd = sides.filter((both) => both.some((turns) => turns.at(-1)![1] === "")).length;
    const irregular = sides.filter((both) => both.some((turns) => /HH|AA/.test(speakers(turns)))).length;
    const endsOpen = sides.filter((both) => both.some((turns) => turns.at(-1)![0] === "Human")).length;
    const counted = verdicts(all);
    expect([all.length, sourcesOf(all)]).toEqual([1156, ["hh"]]);
    const empty = Object.keys(counted).filter((reason) => reason.includes("answer is empty"));
    expect(empty.reduce((sum, reason) => sum + counted[reason]!, 0)).toBe(emptyEnd);
    expect(counted["turns of one speaker in a row were joined"]).toBe(irregular);
    // koala-spec §1.3 and eval-data §3.4, whole file: 4 with an empty turn, 9 pairs with one speaker twice, none ends in Human.
    expect({ emptyEnd, irregular, endsOpen }).toEqual({ emptyEnd: 4, irregular: 2, endsOpen: 0 });
  });

  test("60 % of the rejected sides' answers are shared with the chosen side, and they are all in the prompt", async () => {
    const all = dialogues(await read("hh_harmless_base_a.jsonl.gz"));
    const records = all.map(({ record }) => record as PreferenceRecord);
    const answers = (messages: PreferenceRecord["messages"]): string[] =>
      messages.filter(({ role }) => role === "assistant").map(contentText);
    const shared = records.flatMap(({ messages }) => answers(messages));
    const own = records.flatMap(({ rejected }) => answers(rejected));
    const share = shared.length / (shared.length + own.length);
    const letters = (texts: string[]): number => texts.reduce((sum, text) => sum + text.length, 0);
    const letterShare = letters(shared) / (letters(shared) + letters(own));
    // Whole file: 3448/5761 = 60 % of the turns, 57 % of the characters.
    expect([shared.length, shared.length + own.length]).toEqual([1708, 2860]);
    expect([share.toFixed(2), letterShare.toFixed(2)]).toEqual(["0.60", "0.56"]);

    // Counted apart: equal turns from the start, over the raw file.
    let rawShared = 0;
    let rawAll = 0;
    let lastOnly = 0;
    let withShared = 0;
    const pairs = await rawPairs();
    for (const { chosen, rejected } of pairs) {
      const [good, bad] = [strict(chosen), strict(rejected)];
      const differ = bad.findIndex((turn, i) => turn.join() !== good[i]?.join());
      const common = bad.slice(0, differ).filter(([speaker]) => speaker === "Assistant").length;
      rawShared += common;
      rawAll += bad.filter(([speaker]) => speaker === "Assistant").length;
      if (common > 0) withShared++;
      if (differ === bad.length - 1 && good.length === bad.length) lastOnly++;
    }
    // With the 4 pairs that ours drops: 7 answers more, 3 of them shared.
    expect([rawShared, rawAll]).toEqual([1711, 2867]);
    // Whole file: 2307 of 2312 differ in the last turn only, 1650 of them (71 %) share an answer.
    expect([lastOnly, withShared, pairs.length]).toEqual([1156, 808, 1156]);
  });

  test("1.7 % of the records are misread by the original's rule, and none by ours", async () => {
    const pairs = await rawPairs();
    const texts = pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]);
    const misread = texts.filter((text) => JSON.stringify(pipeline(text)) !== JSON.stringify(strict(text)));
    // Whole file: 80 of 4624 = 1.7 %.
    expect([misread.length, texts.length]).toEqual([41, 2312]);
    const all = dialogues(await read("hh_harmless_base_a.jsonl.gz"));
    const raw = new Map(pairs.map((pair, i) => [i + 1, pair]));
    let compared = 0;
    for (const { line, record } of all) {
      const { messages, chosen } = record as PreferenceRecord;
      const ours = [...messages, ...chosen]
        .map(({ role, content }) => `${role}: ${content as string}`)
        .join("\n\n");
      const theirs = strict(raw.get(line)!.chosen);
      const plain = theirs
        .map(([s, text]) => `${s === "Human" ? "user" : "assistant"}: ${text}`)
        .join("\n\n");
      if (/HH|AA/.test(speakers(theirs))) continue;
      expect(ours).toBe(plain);
      compared++;
    }
    expect(compared).toBeGreaterThan(1140);
  });

  test("distinct first questions", async () => {
    const all = dialogues(await read("hh_harmless_base_a.jsonl.gz"));
    const raw = (await rawPairs()).map(({ chosen }) => strict(chosen)[0]![1]);
    // Whole file: 2178 of 2312. Ours are without the 4 dropped pairs, each of which had a question of its own.
    expect([new Set(raw).size, new Set(all.map((one) => userTurns(one)[0])).size]).toEqual([1117, 1113]);
  });
});

describe.skipIf(!existsSync(data))(`other real files (${withoutShared})`, () => {
  const json = (name: string): Promise<unknown> => Bun.file(join(data, name)).json();

  test("FastChat's dummy conversations: all 500 are ok and keep every turn", async () => {
    const all = await read("fastchat_dummy_conversation.json");
    expect([verdicts(all), sourcesOf(all)]).toEqual([{ ok: 500 }, ["sharegpt"]]);
    const plain = (await json("fastchat_dummy_conversation.json")) as {
      id: string;
      conversations: { value: string }[];
    }[];
    const turns = dialogues(all).map(({ record }) => record.messages.map(contentText));
    const raw = plain.map(({ conversations }) => conversations.map(({ value }) => value));
    // A question behind the last answer would be cut off; these have none.
    expect(turns).toEqual(raw);
    expect(new Set(dialogues(all).flatMap(userTurns)).size).toBe(54);
    expect(dialogues(all).map(({ tags }) => tags.id!)).toEqual(plain.map(({ id }) => id));
  });

  test("Alpaca's 999 English and 1000 Chinese records, with either joiner", async () => {
    for (const [name, count] of [
      ["llamafactory_alpaca_en_demo.json", 999],
      ["llamafactory_alpaca_zh_demo.json", 1000],
    ] as const) {
      const plain = (await json(name)) as { instruction: string; input: string; output: string }[];
      for (const joiner of ["\n\n", " "]) {
        const all = await read(name, { options: { joiner } });
        expect([verdicts(all), sourcesOf(all)]).toEqual([{ ok: count }, ["alpaca"]]);
        expect(dialogues(all).map(({ record }) => record.messages.map(contentText))).toEqual(
          plain.map(({ instruction, input, output }) => [
            input ? instruction + joiner + input : instruction,
            output,
          ]),
        );
      }
    }
  });

  test("LLaMA-Factory's 300 pairs", async () => {
    const all = await read("llamafactory_dpo_en_demo.json");
    expect([verdicts(all), sourcesOf(all)]).toEqual([{ ok: 300 }, ["pairs"]]);
  });

  test("LLaMA-Factory's 91 identity answers, filled in", async () => {
    await expect(read("llamafactory_identity.json")).rejects.toThrow(
      "The identity template holds {{name}}, and the recipe does not say what that is.",
    );
    const options = { name: "Koala", author: "the lab" };
    const all = await read("llamafactory_identity.json", { options });
    expect([verdicts(all), sourcesOf(all)]).toEqual([{ ok: 91 }, ["identity"]]);
    const text = (await Bun.file(join(data, "llamafactory_identity.json")).text())
      .replaceAll("{{name}}", "Koala")
      .replaceAll("{{author}}", "the lab");
    const plain = JSON.parse(text) as { instruction: string; output: string }[];
    expect(dialogues(all).map(({ record }) => record.messages.map(contentText))).toEqual(
      plain.map(({ instruction, output }) => [instruction, output]),
    );
  });

  test("HC3's record gives a dialogue an answer, with origin and licence from the file's name", async () => {
    const all = dialogues(await read("hc3_wiki_csai_1.jsonl"));
    expect(all.map(({ id, tags, licence }) => [id, tags, licence])).toEqual([
      ["hc3/hc3_wiki_csai_1.jsonl:1#1", { answer: "human", origin: "wiki_csai" }, "CC-BY-SA"],
      ["hc3/hc3_wiki_csai_1.jsonl:1#2", { answer: "chatgpt", origin: "wiki_csai" }, "CC-BY-SA"],
    ]);
    const [only] = await read("hc3_wiki_csai_1.jsonl", { options: { human_answers: false } });
    expect(only?.verdict === "ok" && only.dialogue.tags.answer).toBe("chatgpt");
  });

  test("OpenAI's two summary records: the comparison is a pair, the rating is dropped", async () => {
    const name = "summarize_from_feedback_readme_examples.json";
    const all = await read(name);
    expect(verdicts(all)).toEqual({ ok: 1, "dropped: a rating along axes is no comparison": 1 });
    const [raw] = (await json(name)) as { info: { post: string }; summaries: { text: string }[] }[];
    const { messages, chosen, rejected } = dialogues(all)[0]!.record as PreferenceRecord;
    const question = contentText(messages[0]!);
    expect(question.endsWith(`: ${raw!.info.post}`)).toBe(true);
    expect(question.slice(0, -raw!.info.post.length)).not.toContain("article");
    // choice is 1: the second summary was preferred.
    expect([chosen, rejected].map(([answer]) => answer!.content)).toEqual([
      raw!.summaries[1]!.text.trim(),
      raw!.summaries[0]!.text.trim(),
    ]);
    expect(dialogues(all)[0]!.tags).toEqual({
      origin: "tldr",
      split: "train",
      batch: "batch9",
      subreddit: "legaladvice",
      confidence: "8",
    });
  });
});
