/** The built-in classifier: its measures are the field's, its training repeats to the bit, and its card states what it does. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { labelled } from "../../../src/eval/moderation/categories.ts";
import { features } from "../../../src/eval/moderation/features.ts";
import { LinearModel } from "../../../src/eval/moderation/linear_model.ts";
import { areaUnderRoc, averagePrecision, crossValidate } from "../../../src/eval/moderation/measure.ts";
import { readSamples } from "../../../src/eval/moderation/samples.ts";
import { prepare, trainModel } from "../../../src/eval/moderation/train.ts";
import { rootDirectory } from "../../../src/util/self_command.ts";
import { uniform } from "../../../src/util/rng.ts";
import { sharedDirectory, withoutShared } from "../../support/paths.ts";
import { temporaryFolder } from "../../support/temporary.ts";

const folder = temporaryFolder("linear");
const builtin = join(rootDirectory, "models", "moderation");
const samplesFile = join(sharedDirectory, "data", "openai_moderation_samples.jsonl");
const hasSamples = existsSync(samplesFile);

describe("measures", () => {
  test("equal scikit-learn's on the examples of its documentation", () => {
    // average_precision_score and roc_auc_score of y_true = [0, 0, 1, 1], y_scores = [0.1, 0.4, 0.35, 0.8]
    const scores = [0.1, 0.4, 0.35, 0.8];
    expect(averagePrecision(scores, [0, 0, 1, 1])).toBeCloseTo(0.8333333333333333, 12);
    expect(areaUnderRoc(scores, [0, 0, 1, 1])).toBeCloseTo(0.75, 12);
  });

  test("with ties equal the definitions, pair by pair and threshold by threshold", () => {
    const scores = Array.from({ length: 200 }, (_, i) => Math.floor(uniform(1, i) * 12));
    const labels = scores.map((score, i) => (uniform(2, i) * 12 < score ? 1 : 0) as 0 | 1);
    let sum = 0;
    let pairs = 0;
    scores.forEach((a, i) =>
      scores.forEach((b, j) => {
        if (labels[i] !== 1 || labels[j] !== 0) return;
        pairs++;
        sum += a > b ? 1 : a === b ? 0.5 : 0;
      }),
    );
    expect(areaUnderRoc(scores, labels)).toBeCloseTo(sum / pairs, 12);
    const positive = labels.filter((label) => label === 1).length;
    let precision = 0;
    let before = 0;
    for (let limit = 12; limit >= 0; limit--) {
      const taken = labels.filter((_, i) => scores[i]! >= limit);
      const recall = taken.filter((label) => label === 1).length / positive;
      if (taken.length > 0)
        precision += (recall - before) * (taken.filter((label) => label === 1).length / taken.length);
      before = recall;
    }
    expect(averagePrecision(scores, labels)).toBeCloseTo(precision, 12);
  });
});

/** Texts whose words tell the label, with some labels unknown. */
function planted(count: number): string {
  const words = (from: string, seed: number) =>
    Array.from({ length: 12 }, (_, i) => from.split(" ")[Math.floor(uniform(seed, i) * 6)]).join(" ");
  const rows = Array.from({ length: count }, (_, i) => {
    const S = i % 3 === 0 ? 1 : 0;
    const prompt = `${words("tree sky lake rain leaf snow", i)} ${S ? words("red hot sin lust skin bed", i) : ""}`;
    return { prompt, S, ...(i % 5 === 0 ? {} : { V: i % 2 }) };
  });
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

describe("training", () => {
  const path = join(folder, "planted.jsonl");
  writeFileSync(path, planted(150));

  test("finds what was planted, finds nothing where labels are noise, and skips what was never labelled", async () => {
    const set = prepare(await readSamples(path));
    const { figures, points } = crossValidate(set.samples, { seed: 1, folds: 5 });
    const by = Object.fromEntries(figures.map((figure) => [figure.category, figure]));
    expect(by["sexual"]!.auc).toBeGreaterThan(0.99);
    expect(by["violence"]!.judged).toBe(120);
    expect(Math.abs(by["violence"]!.auc - 0.5)).toBeLessThan(0.2);
    expect(figures.map(({ category }) => category)).toEqual(["sexual", "violence", "any"]);
    const model = trainModel(set, points, { seed: 1 });
    expect(model.categories).toEqual(["sexual", "violence"]);
    expect(model.score("tree lake red hot lust sin").get("sexual")!).toBeGreaterThan(0.5);
    expect(model.score("leaf lake snow sky rain tree sky").get("sexual")!).toBeLessThan(0.5);
  });

  test("gives the same bytes again, and the files give the same scores", async () => {
    const written = [1, 1, 2].map(async (seed, i) => {
      const set = prepare(await readSamples(path));
      const model = trainModel(set, crossValidate(set.samples, { seed, folds: 5 }).points, { seed });
      const place = join(folder, `again-${i}`);
      mkdirSync(place);
      model.write(place);
      const again = LinearModel.read(place);
      expect([...again.score("red snow")]).toEqual([...model.score("red snow")]);
      return readFileSync(join(place, "weights.bin"));
    });
    const [a, b, c] = await Promise.all(written);
    expect(a!.equals(b!)).toBe(true);
    expect(a!.equals(c!)).toBe(false);
  });

  test("refuses files of another shape with the line", () => {
    const bad = join(folder, "bad.jsonl");
    writeFileSync(bad, `${planted(60)}{"prompt": "x", "S": 2}\n`);
    expect(readSamples(bad)).rejects.toThrow("line 61");
    writeFileSync(bad, planted(3));
    expect(readSamples(bad)).rejects.toThrow("3 samples");
    expect(readSamples(join(folder, "none"))).rejects.toThrow("does not exist");
  });
});

describe("the built-in model", () => {
  test("is at most 1 MB and knows the eight categories of its samples", () => {
    expect(statSync(join(builtin, "weights.bin")).size).toBeLessThanOrEqual(2 ** 20);
    expect(LinearModel.builtin().categories).toEqual([...labelled]);
  });

  test("does not care about case and white space, and takes empty and very long texts", () => {
    const model = LinearModel.builtin();
    expect([...model.score("I HATE   you\n")]).toEqual([...model.score("i hate you")]);
    for (const text of ["", "𝕏".repeat(50_000), "a".repeat(200_000)])
      for (const score of model.score(text).values()) expect(score).toBeWithin(0, 1);
    expect([...features("a b").indices]).toEqual([...features("a b").indices].toSorted((x, y) => x - y));
  });

  test.skipIf(!hasSamples)(
    `is what its samples make, and flags no prompt of Koala's (skipped: ${withoutShared})`,
    async () => {
      const set = prepare(await readSamples(samplesFile));
      const place = join(folder, "whole");
      mkdirSync(place);
      const points = labelled.map(() => 0);
      trainModel(set, points, { seed: 0 }).write(place);
      expect(
        readFileSync(join(place, "weights.bin")).equals(readFileSync(join(builtin, "weights.bin"))),
      ).toBe(true);
      const lines = readFileSync(join(sharedDirectory, "data", "koala_test_set.jsonl"), "utf8")
        .trim()
        .split("\n");
      const flagged = lines.filter((line) =>
        [...LinearModel.builtin().score(JSON.parse(line).prompt).values()].some((score) => score >= 0.5),
      );
      expect([lines.length, flagged]).toEqual([180, []]);
    },
  );
});
