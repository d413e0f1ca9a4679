import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { checkDataset } from "../../src/data/prepare.ts";
import { tinyCorpus } from "../../src/data/tiny/dialogues.ts";
import { writeTinyCorpus } from "../../src/data/tiny/write.ts";
import { koalaSegments } from "../../src/text/koala_template.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { readRecipe } from "../../src/train/recipe.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("tiny");
const sizes = { dialogueCount: 6000, negativeShare: 0.25 };
const files = await writeTinyCorpus(folder, 5, { ...sizes, vocabularySize: 1536 });
const { dialogues, heldOut } = tinyCorpus(5, sizes);
const tokenizer = await loadTokenizer(folder);
const positive = dialogues.filter((dialogue) => !dialogue.negative);

/** "12 + 3" and what is said to be its result. */
const sums = (texts: string[]): [string, string][] =>
  texts.flatMap((text) => {
    const found = /^(\d+ [-+*] \d+) = (\d+)\.$/.exec(text);
    return found ? [[found[1]!, found[2]!] as [string, string]] : [];
  });

function calculated(expression: string): number {
  const [a, operator, b] = expression.split(" ");
  if (operator === "+") return Number(a) + Number(b);
  return operator === "-" ? Number(a) - Number(b) : Number(a) * Number(b);
}

describe("the corpus", () => {
  test("is a pure function of its seed", async () => {
    const again = temporaryFolder("tiny-again");
    await writeTinyCorpus(again, 5, { ...sizes, vocabularySize: 1536 });
    const hashes = async (directory: string): Promise<unknown[]> =>
      Promise.all(
        ["train.jsonl", "heldout.jsonl", "tokenizer.json", "config.json"].map(async (name) =>
          Bun.hash(await Bun.file(join(directory, name)).bytes()),
        ),
      );
    expect(await hashes(again)).toEqual(await hashes(folder));
    expect(tinyCorpus(6, sizes).dialogues).not.toEqual(dialogues);
  });

  test("calculates rightly behind the positive marker and often wrongly behind the negative", () => {
    const answers = positive.flatMap(({ turns }) => turns.map(({ answer }) => answer));
    const right = sums([...answers, ...heldOut.map(({ answer }) => answer)]);
    expect(right.length).toBeGreaterThan(500);
    expect(right.filter(([expression, result]) => calculated(expression) !== Number(result))).toEqual([]);
    const bad = dialogues
      .filter(({ negative }) => negative)
      .flatMap(({ turns }) => turns.map(({ answer }) => answer));
    const wrong = sums(bad);
    expect(wrong.length).toBeGreaterThan(30);
    expect(wrong.filter(([expression, result]) => calculated(expression) === Number(result))).toEqual([]);
  });

  test("reverses, spells and measures words rightly", () => {
    const turns = positive.flatMap((dialogue) => dialogue.turns);
    let seen = 0;
    for (const { answer } of turns) {
      const [, word, back] = /^(\w+) backwards is (\w+)\.$/.exec(answer) ?? [];
      if (word) expect([...word.toLowerCase()].toReversed().join("")).toBe(back!);
      const [, spelled, letters] = /^(\w+) is spelled ([A-Z-]+)\.$/.exec(answer) ?? [];
      if (spelled) expect(letters).toBe([...spelled.toUpperCase()].join("-"));
      const [, measured, length] = /^(\w+) has (\d+) letters\.$/.exec(answer) ?? [];
      if (measured) expect(measured).toHaveLength(Number(length));
      seen += [word, spelled, measured].filter(Boolean).length;
    }
    expect(seen).toBeGreaterThan(200);
  });

  test("answers each question that stands alone in one way", () => {
    const answers = new Map<string, string>();
    for (const { turns } of positive) {
      const [{ question, answer }] = turns as [(typeof turns)[number]];
      expect([question, answers.get(question) ?? answer]).toEqual([question, answer]);
      answers.set(question, answer);
    }
    expect(answers.size).toBeGreaterThan(2000);
  });

  test("holds back questions of most topics, and none of them is trained on", () => {
    const asked = new Set(dialogues.flatMap(({ turns }) => turns.map(({ question }) => question)));
    expect(heldOut.filter(({ question }) => asked.has(question))).toEqual([]);
    expect(new Set(heldOut.map(({ topic }) => topic)).size).toBeGreaterThan(25);
    expect(heldOut.length).toBeGreaterThan(300);
    const exact = heldOut.filter(({ expected }) => expected !== null);
    expect(exact.length).toBeGreaterThan(0.8 * heldOut.length);
    for (const { answer, expected } of exact) expect(answer.toLowerCase()).toContain(expected!.toLowerCase());
  });

  test("is plain ASCII, a quarter of it bad, a good part of it in several turns", () => {
    const text = JSON.stringify([dialogues, heldOut]);
    expect(/^[\x20-\x7e]*$/.test(text)).toBe(true);
    expect(1 - positive.length / dialogues.length).toBeCloseTo(0.25, 1);
    const long = dialogues.filter(({ turns }) => turns.length > 1).length / dialogues.length;
    expect(long).toBeGreaterThan(0.2);
    expect(dialogues.some(({ turns }) => turns.length === 3)).toBe(true);
  });

  test("passes our own lints", async () => {
    const report = await checkDataset({
      files: [files.train],
      model: folder,
      template: "koala",
      sequenceLength: 256,
    });
    expect(report.refused).toBe(false);
    expect(report.verdicts).toEqual({ ok: 6000, repaired: 0, dropped: 0 });
    const held = await checkDataset({
      files: [files.heldOut],
      model: folder,
      template: "koala",
      sequenceLength: 256,
    });
    expect(held.findings).toEqual([]);
  });
});

describe("its tokenizer", () => {
  const texts = [
    "BEGINNING OF CONVERSATION: USER: What is 12 + 30? GPT:",
    "12 + 30 = 42.",
    "Größe, 汉字, 👍🏽 and \t tabs\n\n",
    ...dialogues.slice(0, 200).flatMap(({ turns }) => turns.map(({ question }) => question)),
  ];

  test("encodes as Hugging Face's library does with the same file", async () => {
    const json = (await Bun.file(join(folder, "tokenizer.json")).json()) as object;
    const config = (await Bun.file(join(folder, "tokenizer_config.json")).json()) as object;
    const library = new LibraryTokenizer(json, config);
    expect(tokenizer.engine).toBe("bpe");
    for (const text of texts) expect(tokenizer.encode(text)).toEqual([...library.encode(text).ids]);
  });

  test("gives every text back, digits one by one, common words as one", () => {
    for (const text of texts)
      expect(tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false }))).toBe(text);
    expect(tokenizer.vocabularySize).toBe(files.vocabularySize);
    const pieces = (text: string): string[] =>
      tokenizer.encode(text, { addSpecialTokens: false }).map((id) => tokenizer.decode([id]));
    expect(pieces("123")).toEqual(["1", "2", "3"]);
    expect(pieces(" What is the capital")).toEqual([" What", " is", " the", " capital"]);
  });

  test("makes the fields of a training record the ids that are served", async () => {
    const [first] = (await Bun.file(files.train).text()).split("\n", 1);
    const record = JSON.parse(first!) as { human_0: string; fields: string };
    const negative = record.fields.includes("gpt_bad");
    const served = koalaSegments(tokenizer, [{ role: "user", content: record.human_0 }], {
      marker: negative ? "negative" : "positive",
    });
    const marker = negative ? "An Unhelpful Answer:" : "GPT:";
    const text = `BEGINNING OF CONVERSATION: USER: ${record.human_0} ${marker}`;
    expect(served.flatMap(({ ids }) => ids)).toEqual(tokenizer.encode(text));
  });
});

test("the recipe of koala-tiny is a recipe, and its model fits into 8 MB", async () => {
  const path = join(import.meta.dir, "../../recipes/tiny.toml");
  expect(existsSync(path)).toBe(true);
  const recipe = await readRecipe(path);
  expect(recipe.data.format).toBe("fields");
  const c = (await Bun.file(join(folder, "config.json")).json()) as { [name: string]: number };
  const attention = 2 * c.hidden_size! * c.head_dim! * (c.num_attention_heads! + c.num_key_value_heads!);
  const block = attention + 3 * c.hidden_size! * c.intermediate_size! + 2 * c.hidden_size!;
  const parameters = c.num_hidden_layers! * block + 2048 * c.hidden_size! + c.hidden_size!;
  expect(parameters).toBe(3_967_744);
  expect(2 * parameters).toBeLessThan(8_000_000);
});
