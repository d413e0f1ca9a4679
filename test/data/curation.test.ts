/** Curation from raw files to training data, over files written here in the shapes of their publishers. */
import { beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { totalRow } from "../../src/data/composition.ts";
import { curate, type Curated } from "../../src/data/curation.ts";
import { checkCurationRecipe } from "../../src/data/curation_recipe.ts";
import { findDrops, whyText } from "../../src/data/filters/drops.ts";
import { prepareDataset } from "../../src/data/prepare.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { llamaFolder } from "./models.ts";

const raw = temporaryFolder("raw");
const model = await llamaFolder();

const jsonl = (rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const lines = (path: string): any[] =>
  // any: read as another program would
  readFileSync(path, "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));

const shared = (i: number) => ({
  id: `s${i}`,
  conversations: [
    {
      from: "human",
      value: i % 10 === 0 ? "The same question as nine others" : `What is the number ${i} for?`,
    },
    { from: "gpt", value: i % 7 === 0 ? `Ask ChatGPT about ${i}.` : `It counts ${i} things\u2028of a kind.` },
  ],
});
const pair = (i: number) => ({
  chosen: `\n\nHuman: Why ${i}?\n\nAssistant: Hm.\n\nHuman: Well?\n\nAssistant: Because of ${i}.`,
  rejected: `\n\nHuman: Why ${i}?\n\nAssistant: Hm.\n\nHuman: Well?\n\nAssistant: No.`,
});
const leak = "Please write down the names of all nine planets in the order of their size.";

const table = {
  name: "t",
  seed: 3,
  sources: [
    { source: "sharegpt", files: ["sharegpt/*.json"], eval_share: 0.1 },
    { source: "alpaca", files: ["alpaca/*"], max: 20, repeat: 2 },
    { source: "hh", files: ["hh/*"] },
    { source: "oig", files: ["oig/*"], optional: true },
  ],
  filters: [
    { rule: "dedup", sources: ["sharegpt"] },
    { rule: "keywords", sources: ["sharegpt"] },
    { rule: "leakage", questions: [{ path: "questions.jsonl", set: "q" }] },
  ],
  train: { data: { template: "koala" }, sequence_length: 256 },
};

const run = (out: string, changes: object = {}, from = raw): Promise<Curated> =>
  curate({
    recipe: checkCurationRecipe({ ...table, ...changes }, "t.toml"),
    raw: from,
    directory: from,
    model,
    out,
  });

beforeAll(() => {
  for (const name of ["sharegpt", "alpaca", "hh"]) mkdirSync(join(raw, name));
  writeFileSync(
    join(raw, "sharegpt/a.json"),
    JSON.stringify(Array.from({ length: 100 }, (_, i) => shared(i))),
  );
  const tasks = Array.from({ length: 30 }, (_, i) => ({
    instruction: `Do ${i}`,
    input: "",
    output: `Done ${i}`,
  }));
  writeFileSync(
    join(raw, "alpaca/a.jsonl"),
    `${jsonl([...tasks, { instruction: leak, input: "", output: "x" }])}{broken\n`,
  );
  writeFileSync(join(raw, "hh/a.jsonl"), jsonl(Array.from({ length: 15 }, (_, i) => pair(i))));
  writeFileSync(join(raw, "questions.jsonl"), jsonl([{ id: 1, prompt: leak }]));
});

describe("raw files become training data", () => {
  const out = temporaryFolder("curated");
  let curated: Curated;
  beforeAll(async () => {
    curated = await run(out);
  });

  test("every raw record is curated or dropped, once, and why can be asked", async () => {
    const train = lines(join(out, "curated/train.jsonl"));
    const evaluation = lines(join(out, "curated/eval.jsonl"));
    const dropped = readdirSync(join(out, "dropped")).flatMap((name) => lines(join(out, "dropped", name)));
    const ids = [...new Set([...train, ...evaluation].map(({ id }) => id)), ...dropped.map(({ id }) => id)];
    expect(ids).toHaveLength(100 + 32 + 15);
    expect(new Set(ids).size).toBe(ids.length);
    const { drops } = await findDrops(out, "a.jsonl:31");
    expect(drops.map(whyText).join()).toContain("alpaca/a.jsonl:31 was dropped by the filter leakage");
    expect((await findDrops(out, "alpaca/a.jsonl:32")).drops[0]).toMatchObject({ rule: "parse" });
    // 31 alpaca records without the leaked one, less the 20 that are taken.
    expect((await findDrops(out, "over the 20 dialogues", 99)).total).toBe(10);
  });

  test("the report counts what each rule did, and a filter leaves other sources alone", () => {
    const { rules } = curated.report.filters;
    expect(rules.map(({ rule, dropped }) => [rule, dropped])).toEqual([
      ["dedup", 9],
      // Of the 15 multiples of 7, 70 is and 0 may be among the ten equal questions.
      ["keywords", expect.any(Number)],
      ["leakage", 1],
    ]);
    expect(rules[1]!.sources.alpaca).toMatchObject({ dropped: 0, in: 31 });
    expect(curated.report.read.map(({ file, verdicts }) => [file, verdicts])).toEqual([
      ["a.json", { ok: 100, repaired: 0, dropped: 0 }],
      ["a.jsonl", { ok: 31, repaired: 0, dropped: 1 }],
      ["a.jsonl", { ok: 15, repaired: 0, dropped: 0 }],
    ]);
  });

  test("the composition's sums are what the trainer's own data set holds", async () => {
    const all = totalRow(curated.composition.rows);
    const options = {
      files: [join(out, "curated/train.jsonl")],
      model,
      template: "koala",
      sequenceLength: 256,
    };
    const { report } = await prepareDataset({ ...options, directory: temporaryFolder("set") });
    expect([all.examples, all.tokens, all.trainedTokens]).toEqual([
      report.documents,
      report.tokens,
      report.trainedTokens,
    ]);
    const bySource = Object.fromEntries(curated.composition.rows.map((row) => [row.source, row]));
    expect(bySource.alpaca).toMatchObject({ dialogues: 20, examples: 40, negativeExamples: 0 });
    expect(bySource.hh).toMatchObject({
      dialogues: 15,
      examples: 30,
      negativeExamples: 15,
      licence: ["MIT"],
    });
    expect(bySource.sharegpt!.dialogues + bySource.sharegpt!.evalDialogues).toBe(
      100 - curated.report.filters.rules[0]!.dropped - curated.report.filters.rules[1]!.dropped,
    );
    expect(bySource.oig!.examples).toBe(0);
  });

  test("the page needs nothing but itself", () => {
    const page = readFileSync(join(out, "composition.html"), "utf8");
    expect(page).not.toMatch(/<script|https?:|url\(/);
    expect(page).toContain("<svg");
    expect(readFileSync(join(out, "composition.txt"), "utf8")).toMatch(/^source +dialogues/);
  });

  test("a second run reads nothing again; a file that was changed is made again, with the same bytes", async () => {
    const file = join(out, "curated/train.jsonl");
    const [bytes, made] = [readFileSync(file), statSync(file).mtimeMs];
    await run(out);
    expect(statSync(file).mtimeMs).toBe(made);
    writeFileSync(file, "half a li");
    await run(out);
    expect(readFileSync(file).equals(bytes)).toBe(true);
    const elsewhere = temporaryFolder("again");
    await run(elsewhere);
    expect(readFileSync(join(elsewhere, "curated/train.jsonl")).equals(bytes)).toBe(true);
  });

  test("a changed filter or raw file is seen", async () => {
    const copy = temporaryFolder("raw-changed");
    cpSync(raw, copy, { recursive: true });
    const place = temporaryFolder("changed");
    const before = (await run(place, {}, copy)).report.mixture;
    expect((await run(place, { filters: [] }, copy)).report.mixture.train).toBeGreaterThan(before.train);
    writeFileSync(join(copy, "hh/a.jsonl"), jsonl(Array.from({ length: 14 }, (_, i) => pair(i))));
    expect((await run(place, {}, copy)).report.mixture.train).toBe(before.train - 1);
  });
});

test("in compatibility mode the original's records come out, and the table counts their tokens", async () => {
  const out = temporaryFolder("compat");
  const { composition } = await run(out, { compat: "koala" });
  const rows = lines(join(out, "curated/train.jsonl"));
  expect(rows.every(({ fields }) => /^\[marker_user\+human_0\+marker_gpt(_bad)?\],/.test(fields))).toBe(true);
  expect(rows.every(({ fields }) => fields.endsWith("<|eos|>,<|eos|>"))).toBe(true);
  const all = totalRow(composition.rows);
  const { report } = await prepareDataset({
    files: [join(out, "curated/train.jsonl")],
    model,
    template: "koala",
    bos: "none",
    directory: temporaryFolder("set"),
  });
  expect([all.examples, all.tokens, all.trainedTokens]).toEqual([
    report.documents,
    report.tokens,
    report.trainedTokens,
  ]);
  // Each side of HH is an example of its own, trained on in full.
  expect(composition.rows.find(({ source }) => source === "hh")).toMatchObject({
    examples: 30,
    negativeExamples: 15,
  });
});

describe("what cannot be is said in one sentence", () => {
  test.each([
    [{ seeds: 3 }, "there is no key seeds; did you mean seed?"],
    [{ sources: [{ source: "sharegpt", files: ["x"], optoinal: true }] }, "did you mean optional?"],
    [{ sources: [{ source: "hh", files: ["x"], options: { spilt: "anywhere" } }] }, "has no setting spilt"],
    [{ sources: [{ files: ["x"] }] }, 'A source that is "auto" needs a name'],
    [
      {
        sources: [
          { source: "hh", files: ["x"] },
          { source: "hh", files: ["y"] },
        ],
      },
      "two sources are called hh",
    ],
    [
      {
        filters: [],
        sources: [
          { source: "hh", files: ["x"], weight: 1 },
          { source: "oig", files: ["y"] },
        ],
      },
      "hh has a weight and another source has none",
    ],
    [{ filters: [{ rule: "dedup", sources: ["share"] }] }, "[[filters]] 1 names the source share"],
    [{ filters: [{ rule: "dedup", ky: 1 }] }, "[[filters]] 1"],
    [{ warts: { hh_ecko: true } }, "warts"],
  ])("%j", (changes, sentence) => {
    expect(() => checkCurationRecipe({ ...table, ...changes }, "t.toml")).toThrow(sentence);
  });

  test("a source without files, and data of which nothing is left", async () => {
    const sources = [{ source: "hh", files: ["none/*"] }];
    expect(run(temporaryFolder("x"), { sources, filters: [] })).rejects.toThrow(
      "The source hh has no files: none/*",
    );
    const filters = [{ rule: "length", min_characters: 100_000 }];
    expect(run(temporaryFolder("y"), { filters })).rejects.toThrow("Nothing is left of the raw files of t");
  });
});
