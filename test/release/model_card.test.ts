/** Model cards: what is known stands in them with its figures, what is not is left out. */
import { describe, expect, test } from "bun:test";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { marked } from "marked";
import { makeDiff } from "../../src/release/diff_make.ts";
import { verifyDiff } from "../../src/release/diff_apply.ts";
import { modelCard } from "../../src/release/model_card.ts";
import { koala } from "../support/refusal.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = temporaryFolder("card");
const tiny = join(import.meta.dir, "..", "..", "models", "koala-tiny");

const empty = {
  name: "m",
  licence: null,
  base: null,
  record: null,
  composition: null,
  evaluation: null,
  files: [],
  isDiff: false,
  about: null,
};

/** Cells of every table, as a Markdown reader sees them. */
function cells(card: string): string[][] {
  const body = card.replace(/^---\n[\s\S]*?\n---\n/, "");
  return marked
    .lexer(body)
    .flatMap((token) => (token.type === "table" ? [token.header, ...token.rows] : []))
    .map((row: { text: string }[]) => row.map((cell) => cell.text));
}

describe("a model card", () => {
  test("adds the sources up and weighs their negative shares by examples", () => {
    const source = { tokens: 100, trainedTokens: 40, licence: "MIT" };
    const composition = [
      { ...source, source: "a|b", examples: 300, negativeShare: 0 },
      { ...source, source: "hh", examples: 100, negativeShare: 0.5 },
    ];
    const rows = cells(modelCard({ ...empty, composition }));
    expect(rows[1]![0]).toBe("a|b");
    expect(rows.at(-1)).toEqual(["all", "400", "200", "80", "12.5 %", ""]);
  });

  test("says no more than is known", () => {
    expect(modelCard(empty)).toBe(
      "---\nlicense: other\npipeline_tag: text-generation\nlibrary_name: koala\ntags:\n  - koala\n---\n\n# m\n",
    );
  });

  test("comes from the command with what training left behind, and keeps the diff whole", async () => {
    const diff = join(root, "diff");
    const tuned = join(root, "tuned");
    cpSync(tiny, tuned, { recursive: true });
    await makeDiff({ base: tiny, tuned, out: diff, baseName: "lab/tiny" });
    expect((await koala(["card", "--model", diff])).err).toContain("is there already");
    const written = await koala(["card", "--model", diff, "--force", "--licence", "apache-2.0"]);
    expect(written).toMatchObject({ code: 0, err: "" });
    const card = await Bun.file(join(diff, "README.md")).text();
    expect(card).toStartWith("---\nlicense: apache-2.0\nbase_model: lab/tiny\n");
    expect(cells(card)).toContainEqual(["trained tokens", "2,469,160"]);
    const { sha256 } = (await verifyDiff({ base: tiny, diff })).header.blob;
    expect(cells(card)).toContainEqual(["diff.bin", "0", `\`${sha256}\``]);
  });
});
