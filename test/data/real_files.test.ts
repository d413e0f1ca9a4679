import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { checkDataset } from "../../src/data/prepare.ts";
import { readRecords, type ReadRecord } from "../../src/data/reader.ts";
import { contentText } from "../../src/data/record.ts";
import { sharedDirectory } from "../text/corpus.ts";

const data = join(sharedDirectory, "data");
const stories = join(sharedDirectory, "models/stories260K");
const read = (name: string): Promise<ReadRecord[]> => Array.fromAsync(readRecords(join(data, name)));
const json = (name: string): Promise<unknown> => Bun.file(join(data, name)).json();

const records = (all: ReadRecord[]) => all.flatMap((one) => (one.verdict === "dropped" ? [] : [one.record]));
const count = (all: ReadRecord[], verdict: ReadRecord["verdict"]): number =>
  all.filter((one) => one.verdict === verdict).length;

describe.skipIf(!existsSync(data) || !existsSync(stories))("real files (skipped without ../shared)", () => {
  test("FastChat's dummy conversations: 500, with the distinct questions that a plain parse finds", async () => {
    const all = await read("fastchat_dummy_conversation.json");
    expect([all.length, count(all, "ok")]).toEqual([500, 500]);
    const questions = records(all).flatMap((record) =>
      record.kind === "chat" ? record.messages.filter(({ role }) => role === "user").map(contentText) : [],
    );
    // Measured apart from this code (README of the files): 54 distinct human turns.
    expect(new Set(questions).size).toBe(54);
  });

  test("Alpaca's 999 records keep every output to the letter", async () => {
    const all = await read("llamafactory_alpaca_en_demo.json");
    const plain = (await json("llamafactory_alpaca_en_demo.json")) as { output: string }[];
    expect(all).toHaveLength(999);
    const outputs = records(all).map(
      (record) => record.kind === "chat" && contentText(record.messages.at(-1)!),
    );
    expect(outputs).toEqual(plain.map(({ output }) => output));
  });

  test("300 preference pairs keep both sides to the letter", async () => {
    const all = await read("llamafactory_dpo_en_demo.json");
    const plain = (await json("llamafactory_dpo_en_demo.json")) as {
      chosen: { value: string };
      rejected: { value: string };
    }[];
    const sides = records(all).map((record) =>
      record.kind === "preference" ? [contentText(record.chosen[0]!), contentText(record.rejected[0]!)] : [],
    );
    expect(sides).toEqual(plain.map(({ chosen, rejected }) => [chosen.value, rejected.value]));
  });

  test("Anthropic's HH: 1156 pairs, nearly all of which differ in the last turn only", async () => {
    const all = await read("hh_harmless_base_a.jsonl.gz");
    expect(all).toHaveLength(1156);
    const pairs = records(all).flatMap((record) => (record.kind === "preference" ? record : []));
    const lastOnly = pairs.filter(({ chosen, rejected }) => chosen.length === 1 && rejected.length === 1);
    // koala-spec §1.3 measured 99.8 % on the whole file.
    expect(lastOnly.length / all.length).toBeGreaterThan(0.99);
    for (const { messages } of lastOnly) expect(messages.at(-1)?.role).toBe("user");
    // No turn lost its text: what KDP's parser dropped at "Human:" inside a turn is there.
    const lengths = pairs.map(({ messages, chosen }) =>
      [...messages, ...chosen].reduce(
        (sum, message) => sum + contentText(message).replace(/\s/g, "").length,
        0,
      ),
    );
    const text = Buffer.from(
      Bun.gunzipSync(await Bun.file(join(data, "hh_harmless_base_a.jsonl.gz")).bytes()),
    ).toString();
    const raw = text
      .trim()
      .split("\n")
      .map((line) =>
        (JSON.parse(line) as { chosen: string }).chosen.split(/\n\n(?:Human|Assistant): ?/).join(""),
      );
    expect(lengths).toEqual(raw.map((chosen) => chosen.replace(/\s/g, "").length));
  });

  test("the faults that HH is known for are found: empty answers and turns out of order", async () => {
    const report = await checkDataset({
      files: [join(data, "hh_harmless_base_a.jsonl.gz")],
      model: stories,
      template: "koala",
      sequenceLength: 4096,
    });
    const refused = report.findings.filter((finding) => finding.refused).map(({ lint }) => lint);
    expect(refused).toEqual(["empty-answer", "role-order"]);
    expect(report.verdicts.ok).toBe(1156);
    expect(report.documents).toBe(2 * 1156);
  });

  test("the Koala test set, whose records have no answer, is refused with its keys", async () => {
    await expect(read("koala_test_set.jsonl")).rejects.toThrow(/koala_test_set\.jsonl.*id, prompt/);
  });
});
