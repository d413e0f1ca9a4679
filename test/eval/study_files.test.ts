/** Study folders and votes.jsonl: what is written reads back, Arena's own rows are read, faults name file and line. */
import { expect, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readStudy, writeStudy } from "../../src/eval/study_files.ts";
import { readVotes, writeVotes } from "../../src/eval/votes_file.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { studyFixture } from "./study_fixture.ts";
import { vote } from "./votes.ts";

const folder = temporaryFolder("study-files");
const votesPath = join(folder, "some.jsonl");

test("a study reads back as it was written", async () => {
  const data = { ...studyFixture(), judgements: [] };
  await writeStudy(folder, data);
  expect(await readStudy(folder)).toEqual(data);
});

test("votes of every kind read back, to the millisecond", async () => {
  const votes = [
    vote({ time: 1_680_480_000_123, note: "line\nbreak", dwellMs: 5321 }),
    vote({ verdict: "both_bad", left: "b", kind: "gold", expected: "tie" }),
    vote({ verdict: "b", kind: "repeat", criterion: "correctness", dwellMs: null }),
  ];
  await writeVotes(votesPath, votes);
  expect(await readVotes(votesPath)).toEqual(votes);
});

test("a row of Chatbot Arena's release is read: model_a stood on the left", async () => {
  const row =
    '{"question_id":"58210e39b3fd4441a2bd4a518bb44c2d","model_a":"chatglm-6b","model_b":"koala-13b","winner":"tie (bothbad)","judge":"arena_user_973","conversation_a":[],"conversation_b":[],"turn":1,"anony":true,"language":"English","tstamp":1682351591.1322}';
  writeFileSync(votesPath, `${row}\n\n`);
  expect(await readVotes(votesPath)).toEqual([
    vote({
      question: "58210e39b3fd4441a2bd4a518bb44c2d",
      set: "all",
      systemA: "chatglm-6b",
      systemB: "koala-13b",
      verdict: "both_bad",
      rater: "arena_user_973",
      dwellMs: null,
      time: 1_682_351_591_132,
    }),
  ]);
});

test("a wrong row is refused with its file, line and field", async () => {
  await writeVotes(votesPath, [vote({}), vote({})]);
  const lines = readFileSync(votesPath, "utf8").trimEnd().split("\n");
  const refusal = async (second: string) => {
    writeFileSync(votesPath, [lines[0], second, ""].join("\n"));
    return readVotes(votesPath).then(
      () => "read",
      (error: Error) => `${error.name}: ${error.message.replace(votesPath, "FILE")}`,
    );
  };
  const spoiled = (part: object) => JSON.stringify({ ...JSON.parse(lines[1]!), ...part });
  expect(await refusal(lines[1]!.slice(0, 40))).toStartWith("UsageError: FILE line 2 is not JSON");
  expect(await refusal(spoiled({ winner: "left" }))).toStartWith(
    'UsageError: FILE line 2: "winner" is wrong',
  );
  expect(await refusal(spoiled({ model_b: "x" }))).toContain("a system cannot be compared with itself");
  expect(await refusal(spoiled({ kind: "gold" }))).toContain("a gold needs the verdict that is expected");
  expect(await refusal(spoiled({ tstamp: null }))).toContain('line 2: "tstamp" is wrong');
});

test("a folder that is not whole, or names strangers, is refused", async () => {
  const data = studyFixture();
  const refusal = () =>
    readStudy(folder).then(
      () => "read",
      (error: Error) => error.message,
    );
  await writeStudy(folder, {
    ...data,
    votes: [vote({ question: "koala/1", systemA: "all", systemB: "gpt" })],
  });
  expect(await refusal()).toContain("Vote 1 of");
  expect(await refusal()).toContain("names the system gpt, which study.json does not know");
  await writeStudy(folder, { ...data, answers: [{ ...data.answers[0]!, question: "koala/99" }] });
  expect(await refusal()).toContain("names the question koala/99");
  rmSync(join(folder, "votes.jsonl"));
  expect(await refusal()).toContain("has no votes.jsonl");
});
