import { describe, expect, test } from "bun:test";
import { readdirSync, truncateSync, utimesSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { checkDataset, openSource, prepareDataset, type PrepareOptions } from "../../src/data/prepare.ts";
import { readRecords } from "../../src/data/reader.ts";
import { openDataset } from "../../src/data/shard.ts";
import { documentsOf } from "../../src/data/example.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { llamaFolder } from "./models.ts";

const folder = temporaryFolder("prepare");
const model = await llamaFolder();

async function dataFile(name: string, records: object[]): Promise<string> {
  const path = join(folder, name);
  await Bun.write(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return path;
}

const dialogue = (question: string, answer: string, weight?: number): object => ({
  messages: [
    { role: "user", content: question },
    { role: "assistant", content: answer, ...(weight === undefined ? {} : { weight }) },
  ],
});

const twenty = Array.from({ length: 20 }, (_, i) =>
  dialogue(`What is ${i} + 1?`, `It is ${i + 1}.`, i % 3 === 0 ? 0.5 : 1),
);

async function options(
  name: string,
  records: object[],
  more: Partial<PrepareOptions> = {},
): Promise<PrepareOptions> {
  const files = [await dataFile(name, records)];
  return { files, model, template: "koala", directory: join(folder, "sets"), sequenceLength: 256, ...more };
}

test("a data set on disk holds the tokens and weights of its records, in order", async () => {
  const asked = await options("Twenty Sums.jsonl", twenty);
  const { directory, report, written } = await prepareDataset(asked);
  expect(written).toBe(true);
  expect(directory).toMatch(/sets\/twenty-sums-[0-9a-f]{16}$/);
  const dataset = openDataset(directory);
  const { tokenizing } = await openSource(asked);
  let document = 0;
  for await (const read of readRecords(asked.files[0]!)) {
    if (read.verdict === "dropped") throw new Error(read.reason);
    for (const segments of tokenizing.tokenize(read.record).examples.flatMap(documentsOf)) {
      const { ids, weights } = dataset.read(document++);
      expect([...ids]).toEqual(segments.flatMap((segment) => segment.ids));
      expect([...weights]).toEqual(segments.flatMap((segment) => segment.ids.map(() => segment.loss)));
    }
  }
  expect(document).toBe(20);
  expect([dataset.documents, dataset.pairs, dataset.trainedTokens]).toEqual([
    20,
    false,
    report.trainedTokens,
  ]);
  expect(dataset.lengths.reduce((a, b) => a + b)).toBe(report.tokens);
  expect(new Set(dataset.read(0).weights)).toEqual(new Set([0, 0.5]));
  expect(() => dataset.read(20)).toThrow("document 20 of 20");
  dataset.close();
});

test("the same inputs are tokenised once; another option, template or content is another data set", async () => {
  const asked = await options("again.jsonl", twenty);
  const first = await prepareDataset(asked);
  const again = await prepareDataset(asked);
  expect(again).toEqual({ ...first, written: false });
  const others = [
    await prepareDataset({ ...asked, sequenceLength: 128 }),
    await prepareDataset({ ...asked, template: "koala-negative" }),
    await prepareDataset(await options("again.jsonl", twenty.slice(1))),
  ];
  expect(new Set([first, ...others].map(({ directory }) => directory)).size).toBe(4);
  expect(openDataset(first.directory).hash).not.toBe(openDataset(others[0]!.directory).hash);
});

test("two processes that prepare the same data at once both end with it", async () => {
  const asked = await options("race.jsonl", twenty);
  const both = await Promise.all([prepareDataset(asked), prepareDataset(asked)]);
  expect(both[0].directory).toBe(both[1].directory);
  expect(openDataset(both[0].directory).documents).toBe(20);
  expect(readdirSync(asked.directory).filter((name) => name.includes("partial"))).toEqual([]);
});

test("what a killed process left is removed after a day, and not before", async () => {
  const asked = await options("killed.jsonl", twenty, { directory: join(folder, "killed") });
  const { directory } = await prepareDataset(asked);
  await rm(directory, { recursive: true });
  for (const [name, hours] of [
    ["old", 25],
    ["young", 23],
  ] as const) {
    const path = join(`${directory}.partial-1-${name}`, "tokens.bin");
    await Bun.write(path, "x");
    const then = Date.now() / 1000 - hours * 3600;
    utimesSync(path, then, then);
  }
  expect((await prepareDataset(asked)).written).toBe(true);
  expect(readdirSync(asked.directory).filter((name) => name.includes("partial"))).toEqual([
    expect.stringContaining("young") as unknown as string,
  ]);
});

test("pairs become two documents each, and the data set says so", async () => {
  const pairs = [{ prompt: "Is it cold?", chosen: "Yes, it is.", rejected: "No." }];
  const { directory } = await prepareDataset(await options("pairs.jsonl", pairs, { method: "dpo" }));
  const dataset = openDataset(directory);
  expect([dataset.documents, dataset.pairs]).toEqual([2, true]);
  const [chosen, rejected] = [dataset.read(0), dataset.read(1)];
  const promptLength = chosen.weights.indexOf(1);
  expect(rejected.ids.slice(0, promptLength)).toEqual(chosen.ids.slice(0, promptLength));
});

test("progress reaches the number of bytes", async () => {
  const calls: [string, number, number][] = [];
  const asked = await options("progress.jsonl", twenty);
  await prepareDataset(asked, (...call) => calls.push(call));
  const bytes = Bun.file(asked.files[0]!).size;
  expect(calls.at(-1)).toEqual(["tokenising", bytes, bytes]);
});

test("a damaged data set is refused when it is opened, and when it is to be used again", async () => {
  const asked = await options("damaged.jsonl", twenty);
  const { directory } = await prepareDataset(asked);
  const tokens = await Bun.file(join(directory, "tokens.bin")).bytes();
  tokens[40]! ^= 1;
  await Bun.write(join(directory, "tokens.bin"), tokens);
  await expect(prepareDataset(asked)).rejects.toThrow(/tokens\.bin is not what was written/);
  truncateSync(join(directory, "tokens.bin"), 40);
  expect(() => openDataset(directory)).toThrow(
    /tokens\.bin has 40 bytes, expected \d+.*prepare the data again/,
  );
  expect(() => openDataset(folder)).toThrow("dataset.json is missing");
});

describe("lints", () => {
  const good = dialogue("Hello!", "Hi! How can I help you?");
  const long = dialogue("Hello!", "no ".repeat(300));
  const cases: [string, object[], Partial<PrepareOptions>][] = [
    ["no-trained-tokens", [good, dialogue("Hi", "Hello", 0)], {}],
    ["trained-share", [good, dialogue("why ".repeat(20), "No.")], { trainedShareMin: 0.2 }],
    ["too-long", [good, long], {}],
    ["special-in-user", [good, dialogue("What is </s>?", "An end.")], {}],
    ["empty-answer", [good, dialogue("Hi", " ")], {}],
    ["dropped", [good, { messages: [{ role: "user", content: "Hi" }] }], {}],
    [
      "role-order",
      [
        good,
        {
          messages: [
            { role: "user", content: "a" },
            { role: "user", content: "b" },
            { role: "assistant", content: "c" },
          ],
        },
      ],
      {},
    ],
    ["double-bos", [{ fields: "[<|bos|>],[<|bos|>],a,<|eos|>", a: "b" }], {}],
    ["untrained-stop", [{ fields: "[q],a,[<|eos|>],[q],a,<|eos|>", q: "x", a: "b" }], {}],
  ];

  test.each(cases)(
    "%s refuses the data, leaves nothing behind, and can be allowed by name",
    async (lint, records, more) => {
      const directory = join(folder, `refused-${lint}`);
      const asked = await options(`${lint}.jsonl`, records, { ...more, directory });
      await expect(prepareDataset(asked)).rejects.toThrow(new RegExp(`^The data is refused: ${lint} \\(1 x`));
      expect(readdirSync(directory)).toEqual([]);
      const report = await checkDataset(asked);
      expect(report.findings.filter((finding) => finding.refused).map((finding) => finding.lint)).toEqual([
        lint as never,
      ]);
      const { written } = await prepareDataset({ ...asked, allow: [lint] });
      expect(written).toBe(true);
    },
  );

  test("see nothing wrong with good data", async () => {
    const report = await checkDataset(await options("good.jsonl", twenty));
    expect(report.findings).toEqual([]);
    expect(report.verdicts).toEqual({ ok: 20, repaired: 0, dropped: 0 });
  });

  test("report duplicates without refusing, and the place of each", async () => {
    const report = await checkDataset(await options("twice.jsonl", [good, ...twenty, good]));
    expect(report.findings).toEqual([
      { lint: "duplicate", count: 1, refused: false, examples: ["twice.jsonl line 22"] },
    ]);
  });

  test("cannot allow data without any trained token, nor be named wrongly", async () => {
    const asked = await options("masked.jsonl", [dialogue("Hi", "Hello", 0)], {
      allow: ["no-trained-tokens", "trained-share"],
    });
    await expect(prepareDataset(asked)).rejects.toThrow("no-trained-tokens");
    await expect(prepareDataset({ ...asked, allow: ["typo"] })).rejects.toThrow("There is no lint typo");
  });
});

test("the histogram counts documents by length", async () => {
  const records = [dialogue("Hi", "Yes"), dialogue("Hi", "no ".repeat(100))];
  const { histogram, documents, longest } = await checkDataset(await options("lengths.jsonl", records));
  expect(histogram.reduce((sum, bucket) => sum + bucket.documents, 0)).toBe(documents);
  expect(histogram.at(-1)!.upTo).toBeGreaterThanOrEqual(longest);
  expect(histogram.at(-1)!.upTo).toBeLessThan(2 * longest);
});
