import { expect, test } from "bun:test";
import { join } from "node:path";
import type { Dialogue } from "../../../src/data/dialogue.ts";
import type { DocumentExample } from "../../../src/data/example.ts";
import { readRecords } from "../../../src/data/reader.ts";
import type { ChatRecord, PreferenceRecord, TrainingRecord } from "../../../src/data/record.ts";
import { RecordTokenizer, tokenizeDefaults, type TokenizeOptions } from "../../../src/data/tokenize.ts";
import { koalaSegments } from "../../../src/text/koala_template.ts";
import { builtinTemplate } from "../../../src/text/template.ts";
import { temporaryFolder } from "../../support/temporary.ts";
import { chatml, llama } from "../models.ts";

const messages = [
  { role: "user", content: "Hello!" },
  { role: "assistant", content: "Hi!" },
  { role: "user", content: "An animal?" },
  { role: "assistant", content: "A stone." },
];
const chat: ChatRecord = { kind: "chat", messages, tools: [] };
const pair: PreferenceRecord = {
  kind: "preference",
  messages: messages.slice(0, 3),
  chosen: [{ role: "assistant", content: "A koala." }],
  rejected: messages.slice(3),
  tools: [],
};
const dialogue = (record: Dialogue["record"], marker: Dialogue["marker"]): Dialogue => ({
  kind: "dialogue",
  id: "s/f.jsonl:1",
  source: "s",
  file: "f.jsonl",
  line: 1,
  licence: null,
  record,
  marker,
  tags: {},
});

async function records(...lines: unknown[]): Promise<(TrainingRecord | string)[]> {
  const path = join(temporaryFolder("dialogues"), "curated.jsonl");
  await Bun.write(path, lines.map((line) => JSON.stringify(line)).join("\n"));
  const all = await Array.fromAsync(readRecords(path));
  return all.map((one) => (one.verdict === "dropped" ? one.reason : one.record));
}

const koala = builtinTemplate("koala", llama)!;
const tokens = (record: TrainingRecord, options: Partial<TokenizeOptions> = {}) =>
  new RecordTokenizer(llama, koala, { ...tokenizeDefaults, ...options }).tokenize(record).examples;

test("curated files give training the record and its marker", async () => {
  expect(
    await records(dialogue(chat, "positive"), dialogue(chat, "negative"), dialogue(pair, "positive")),
  ).toEqual([{ ...chat, marker: "positive" }, { ...chat, marker: "negative" }, pair]);
});

test("lines that are no dialogue are dropped with a reason", async () => {
  const good = dialogue(chat, "positive");
  expect(
    await records(
      good,
      good,
      { ...good, marker: "so-so" },
      { ...good, record: { kind: "text", text: "a" } },
      { ...good, record: { ...pair, rejected: pair.chosen } },
    ),
  ).toEqual([
    { ...chat, marker: "positive" },
    { ...chat, marker: "positive" },
    "marker is neither positive nor negative",
    "the record is neither chat nor preference",
    "chosen and rejected are the same",
  ]);
});

test("a negative record is what serving with the negative marker would render, on every answer", () => {
  const [example] = tokens({ ...chat, marker: "negative" }) as DocumentExample[];
  const served = (marker: string) => koalaSegments(llama, messages, { marker, addGenerationPrompt: false });
  expect(example && "segments" in example && example.segments).toEqual(served("negative"));
  const [positive] = tokens({ ...chat, marker: "positive" }) as DocumentExample[];
  expect(positive!.segments).toEqual(served("positive"));
  const [own] = tokens({ ...chat, marker: "negative" }, { negativeMarker: "BAD:" }) as DocumentExample[];
  expect(own!.segments).toEqual(served("BAD:"));
});

test("other templates have no markers, and chosen answers alone leave negative records out", () => {
  const chatmlTokens = new RecordTokenizer(chatml, builtinTemplate("chatml", chatml)!, tokenizeDefaults);
  expect(() => chatmlTokens.tokenize({ ...chat, marker: "negative" })).toThrow(
    /A record with the negative marker needs a format with markers, and the chat template .* has none/,
  );
  expect(chatmlTokens.tokenize({ ...chat, marker: "positive" }).examples).toHaveLength(1);
  expect(() => tokens({ ...chat, marker: "negative" }, { preference: "chosen" })).toThrow(/left out/);
});
