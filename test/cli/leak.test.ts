import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { leakPage } from "../../src/data/leak/leak_page.ts";
import { koala } from "../support/refusal.ts";
import { sharedDirectory, withoutShared } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("leak-command");
const at = (name: string): string => join(folder, name);
const asked = "Write a short letter to the harbour master and ask whether two boats may stay over the winter";
const lines = (values: object[]): string => values.map((value) => `${JSON.stringify(value)}\n`).join("");
await Bun.write(
  at("test.jsonl"),
  lines([
    { id: 1, prompt: asked },
    { id: 2, prompt: "Why is the sea at the north pole less salty than the one at the equator?" },
  ]),
);
const alpaca = (instruction: string) => ({ instruction, input: "", output: "Yes." });
const copy = alpaca(`Please help me. ${asked} <b>soon</b>!`);
await Bun.write(
  at("leaky.jsonl"),
  lines([alpaca("Name a fish."), copy, { ...alpaca("Say no."), instruction: 5 }]),
);
const many = Array.from({ length: 999 }, (_, i) => alpaca(`What comes after the number ${i * 7919}?`));
const compressed = Bun.gzipSync(lines(many));
await Bun.write(at("cut.jsonl.gz"), compressed.subarray(0, compressed.length >> 1));
await Bun.write(at("clean.jsonl"), lines([alpaca("Name a fish."), alpaca("Name a bird.")]));

test("a planted question is named with its place, what could not be compared is said, and the exit code is 1", async () => {
  const report = at("leak.json");
  const { code, out, err } = await koala([
    "data",
    "leak",
    "--test",
    at("test.jsonl"),
    "--train",
    at("leaky.jsonl"),
    at("clean.jsonl"),
    "--report",
    report,
  ]);
  expect(code).toBe(1);
  expect(out).toMatch(/test\/1: Write a short letter/);
  expect(out).toMatch(/containment-8 1\.00 in \S*leaky\.jsonl:2, turn 1/);
  expect(out).toMatch(/1 of 2 questions leak; 4 questions of users were compared/);
  expect(err).toMatch(/not compared: 1 x leaky\.jsonl: .*instruction/);
  const { leaked, rows } = await Bun.file(report).json();
  expect(leaked).toBe(1);
  expect(rows[0].closest["containment-8"].excerpt).toBe(copy.instruction);
  const page = leakPage(await Bun.file(report).json());
  expect(page).toContain("100 % of its 8-grams");
  expect(page).toContain("&#60;b&#62;soon");
  expect(page).not.toMatch(/<b>|<script|(?:src|href)=/);
});

test("a file that was cut off is compared as far as it goes, and that is said", async () => {
  const args = ["data", "leak", "--test", at("test.jsonl"), "--train", at("cut.jsonl.gz")];
  const { code, out, err } = await koala(args);
  expect(code).toBe(0);
  const compared = Number(/(\d+) questions of users/.exec(out)?.[1]);
  expect(compared).toBeGreaterThan(100);
  expect(compared).toBeLessThan(999);
  expect(err).toContain("not compared: 1 x cut.jsonl.gz: the compressed data is truncated");
});

test("nothing found is exit code 0, and the report can be a page", async () => {
  const report = at("clean.html");
  const { code, out } = await koala([
    "data",
    "leak",
    "--test",
    at("test.jsonl"),
    "--train",
    at("clean.jsonl"),
    "--report",
    report,
  ]);
  expect({ code, out }).toEqual({
    code: 0,
    out: "0 of 2 questions leak; 2 questions of users were compared.\n",
  });
  expect(await Bun.file(report).text()).toContain("0 of 2 questions leak");
});

const real = join(sharedDirectory, "data");
test.skipIf(!existsSync(real))(
  `AlpacaEval holds the 252 questions of self-instruct and 156 of Koala's 180, as its own labels say (${withoutShared})`,
  async () => {
    const report = at("alpaca_eval.json");
    const named = (name: string): string => join(real, name);
    const { code } = await koala([
      "data",
      "leak",
      "--test",
      named("koala_test_set.jsonl"),
      named("self_instruct_user_oriented_252.jsonl"),
      "--train",
      named("alpacaeval_alpaca-7b.json"),
      "--report",
      report,
    ]);
    expect(code).toBe(1);
    const labels = (await Bun.file(named("alpacaeval_alpaca-7b.json")).json()) as { dataset: string }[];
    const labelled = labels.filter(({ dataset }) => /selfinstruct|koala/.test(dataset)).length;
    expect((await Bun.file(report).json()).leaked).toBe(labelled);
  },
);
