import { describe, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expectOneSentence, koala, shared } from "../support/refusal.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = join(import.meta.dir, "..", "..");
const tiny = join(root, "models", "koala-tiny");
const folder = temporaryFolder("bad-study");
const at = (...names: string[]): string => join(folder, ...names);

const curation = `
name = "bad"
[[sources]]
source = "alpaca"
files = ["raw.json"]
[train]
steps = 1
[train.model]
path = "koala-tiny"
`;
const files: { [name: string]: string | Uint8Array } = {
  "a file": "x",
  "empty.toml": "",
  "empty.jsonl": "",
  "bytes.toml": Buffer.from([0xff, 0x41, 0x3d]),
  "bytes.jsonl": Buffer.from([0xff, 0xfe, 0x00, 0x0a]),
  "object.json": '{"a": 1}',
  "curation.toml": curation,
  "marker.toml": `compat = "koala"\n${curation}[train.data]\nmarker = "Good:"\n`,
  "questions.jsonl": '{"id": 1, "prompt": "Who are you?"}\n',
  "cut-off.jsonl": '{"kind":"dialogue","id":"a/b:1","sou',
  "cut-composition/composition.json": '{"rows": [',
  "wrong-composition/composition.json": '{"rows": [1]}',
  "cut-recipe/recipe.json": '{"study": {',
  "wrong-recipe/recipe.json": "{}",
  "no-sums/SHA256SUMS": "",
  "wrong-sums/SHA256SUMS": "no hash\n",
  "no-labels.jsonl": '{"prompt": "x", "S": 0}\n'.repeat(60),
  "votes/study.json": "{}",
  "diff/diff.json": "{",
};
for (const [name, content] of Object.entries(files)) {
  mkdirSync(join(at(name), ".."), { recursive: true });
  writeFileSync(at(name), content);
}
mkdirSync(at("empty"));

const raw = ["--raw", at("empty"), "--out", at("out")];
const questions = ["--test", at("questions.jsonl")];
const bad: [args: string[], says: RegExp][] = [
  [["data", "curate", at("nowhere.toml"), ...raw], /no recipe .*nowhere\.toml/],
  [["data", "curate", at("empty.toml"), ...raw], /empty\.toml .*name: is missing; sources: is missing/],
  [["data", "curate", at("bytes.toml"), ...raw], /bytes\.toml is not TOML/],
  [["data", "curate", at("curation.toml"), ...raw], /source alpaca has no files: raw\.json .*below/],
  [
    ["data", "curate", at("curation.toml"), "--raw", at("nowhere"), "--out", at("out")],
    /nowhere with raw files/,
  ],
  [["data", "curate", at("curation.toml"), "--raw", at("empty"), "--out", at("a file")], /a file/],
  [["data", "curate", at("marker.toml"), ...raw], /original's markers; leave marker/],
  [["data", "why", at("empty"), "x"], /no dropped\.jsonl/],
  [["data", "composition", at("empty")], /no composition\.json/],
  [["data", "composition", at("cut-composition")], /composition\.json is not valid JSON/],
  [["data", "composition", at("wrong-composition")], /is no composition/],
  [["data", "leak", ...questions, "--train", at("empty.jsonl")], /empty\.jsonl is empty/],
  [["data", "leak", ...questions, "--train", at("bytes.jsonl")], /line 1: the bytes are not UTF-8/],
  [["data", "leak", ...questions, "--train", at("object.json")], /no known source/],
  [["data", "leak", ...questions, "--train", at("cut-off.jsonl")], /cut-off\.jsonl line 1 is not JSON/],
  [["data", "leak", "--test", at("empty.jsonl"), "--train", at("object.json")], /holds no questions/],
  [["study", at("empty.toml"), "--out", at("out")], /title: is missing/],
  [["study", "report", at("empty")], /is no study: koala study init/],
  [["study", "report", at("cut-recipe")], /recipe\.json is not valid JSON/],
  [["study", "report", at("wrong-recipe")], /not what koala study wrote/],
  [["study", "verify", at("empty")], /the study is not finished/],
  [["study", "verify", at("no-sums")], /names no file/],
  [["study", "verify", at("wrong-sums")], /line 1 is not a hash and a name/],
  [["study", "serve", at("empty")], /no study\.db/],
  [["eval", "report", at("votes")], /study\.json/],
  [["eval", "perplexity", tiny, at("bytes.jsonl")], /line 1: the bytes are not UTF-8/],
  [["eval", "tasks", tiny, at("object.json")], /line 1: "query" is missing/],
  [["moderate", "eval", at("no-labels.jsonl")], /no sample with a label of 1/],
  [["diff", "apply", "--base", tiny, "--diff", at("diff"), "--out", at("model")], /diff\.json/],
  [["diff", "make", "--base", tiny, "--tuned", at("empty"), "--out", at("made")], /empty holds neither/],
  [["import", "--from", "meta", "--source", at("empty"), "--out", at("made")], /empty/],
  [["export", "--model", at("empty"), "--out", at("x.gguf")], /empty/],
];

describe("what a study cannot use is refused in one sentence", () => {
  const outcome = shared(bad, ([args]) => koala(args));
  for (const one of bad)
    test(
      ["koala", ...one[0]].join(" ").replaceAll(folder, ""),
      async () => {
        expectOneSentence(await outcome(one), one[1]);
      },
      60_000,
    );
});
