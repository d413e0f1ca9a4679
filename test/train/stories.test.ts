import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { idsOf } from "../../src/text/segments.ts";
import { namedTemplate } from "../../src/text/template.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { parseRecipe } from "../../src/train/recipe.ts";
import { prepareData, runTraining } from "../../src/train/run.ts";
import { greedy } from "../../src/engine/runner.ts";
import { openModel } from "../support/models.ts";
import { hasStories, stories, withoutShared } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { device } from "./support.ts";

const animals = [
  "cat",
  "dog",
  "bird",
  "frog",
  "bear",
  "duck",
  "fish",
  "pig",
  "bee",
  "ant",
  "fox",
  "cow",
  "hen",
  "owl",
  "bug",
  "ram",
];
const places = [
  "in the park",
  "at home",
  "on the hill",
  "by the sea",
  "in a tree",
  "in the box",
  "on the bed",
  "at school",
];
const pairs = animals.map((animal, i) => ({
  prompt: `Where is the ${animal}?`,
  chosen: `The ${animal} is ${places[i % 8]}.`,
  rejected: `I do not know ${places[(i * 3 + 1) % 8]}.`,
}));

describe.skipIf(!hasStories)(`stories260K (${hasStories ? "fine-tuned" : withoutShared})`, () => {
  test("memorises 32 dialogues from preference records, and Koala's marker decides between good and bad answers", async () => {
    const folder = temporaryFolder("stories");
    const file = join(folder, "pairs.jsonl");
    await Bun.write(file, pairs.map((pair) => JSON.stringify(pair)).join("\n"));
    const recipe = parseRecipe(
      `
      output = ${JSON.stringify(join(folder, "out"))}
      epochs = 26
      sequence_length = 256
      rows_per_step = 3
      micro_rows = 3
      precision = "float32"
      export_dtype = "float32"
      model.path = ${JSON.stringify(stories)}
      data = { files = [${JSON.stringify(file)}], template = "koala", preference = "condition" }
      schedule = { type = "wsd", learning_rate = 8e-3, warmup_steps = 5 }
      optimizer = { beta2 = 0.95 }
      checkpoint = { epochs = false }
      `,
      "recipe.toml",
    );
    const dataset = await prepareData(recipe, stories);
    const losses: number[] = [];
    const model = await runTraining({
      recipe,
      model: stories,
      dataset,
      resume: false,
      measure: false,
      device,
      onEvent: (event) => event.type === "step" && losses.push(event.loss),
    });
    expect(losses[0]!).toBeGreaterThan(2);
    expect(losses.at(-1)!).toBeLessThan(0.05);

    const tokenizer = await loadTokenizer(model!);
    const runner = await openModel(model!, { dtype: "float32" });
    for (const [name, side] of [
      ["koala", "chosen"],
      ["koala-negative", "rejected"],
    ] as const) {
      const template = await namedTemplate(name, tokenizer);
      const answers = pairs.map(({ prompt }) => {
        const ids = idsOf(
          template.render([{ role: "user", content: prompt }], { addGenerationPrompt: true }),
        );
        const answer: number[] = [];
        while (answer.length < 40) {
          const tokens = [...ids, ...answer];
          const row = { tokens, past: 0, pages: [1, 2, 3, 4], sample: greedy, score: null, embed: false };
          const id = runner.step([row])[0]!.id!;
          if (template.stopIds.includes(id)) break;
          answer.push(id);
        }
        return tokenizer.decode(answer).trim();
      });
      expect(answers).toEqual(pairs.map((pair) => pair[side]));
    }
    runner.close();
  }, 60_000);
});
