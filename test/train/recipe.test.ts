import { describe, expect, test } from "bun:test";
import { parseRecipe } from "../../src/train/recipe.ts";
import { activationsOf } from "../../src/train/run_options.ts";

const least = `
output = "out"
epochs = 2
[model]
path = "base"
[data]
dataset = "data"
`;
const parse = (text: string, ...settings: string[]) => parseRecipe(text, "recipe.toml", settings);

describe("a recipe", () => {
  test("needs a model, data, a length and an output, and has defaults for the rest", () => {
    const recipe = parse(least);
    expect(recipe.method).toEqual({ type: "sft", loss_reduction: "token" });
    expect(recipe.precision).toBe("bf16");
    expect(recipe.optimizer.clip_norm).toBe(1);
    expect(recipe.schedule.learning_rate).toBe(2e-5);
    expect(recipe.lora).toBeUndefined();
  });

  test("refuses unknown keys, naming them", () => {
    expect(() => parse(`learning_rat = 1\n${least}`)).toThrow(/learning_rat/);
    expect(() => parse(`${least}\n[optimizer]\nbeta3 = 0.5`)).toThrow(/optimizer.*beta3/);
  });

  test("refuses values out of range, naming key and limit", () => {
    expect(() => parse(least, "rows_per_step=0")).toThrow(/rows_per_step.*1/);
    expect(() => parse(least, "precision=fp4")).toThrow(/precision/);
    expect(() => parse(least, "lora.targets=['q_proj', 'x_proj']")).toThrow(/lora\.targets\.1/);
    expect(() => parse(least, "lora.targets=['lm_head']")).toThrow(
      /LoRA is not offered on lm_head; train it in full/,
    );
    expect(() => parse(least, "precision=float32", "gradients=bfloat16")).toThrow(/needs precision = "bf16"/);
    expect(() => parse(least, "precision=float32", "activations=bfloat16")).toThrow(
      /activations = "bfloat16" needs precision = "bf16" or "mixed"/,
    );
    expect(parse(least, "method.type=kto").method).toEqual({
      type: "kto",
      beta: 0.1,
      desirable_weight: 1,
      undesirable_weight: 1,
    });
    expect(() => parse(`steps = 3\n${least}`)).toThrow(/either epochs or steps/);
    expect(() => parse(least, "data.files=['a.jsonl']")).toThrow(/either dataset/);
  });

  test("takes settings from the command line, tables and texts too", () => {
    const recipe = parse(
      least,
      "schedule.type=wsd",
      "schedule.warmup_share=0.03",
      "lora.rank=4",
      "epochs=0.5",
    );
    expect(recipe.schedule).toMatchObject({ type: "wsd", warmup_share: 0.03 });
    expect(recipe.lora?.rank).toBe(4);
    expect(recipe.epochs).toBe(0.5);
    expect(parse(least, "steps=3")).toMatchObject({ steps: 3 });
    expect(parse(least, "steps=3").epochs).toBeUndefined();
    expect(() => parse(least, "epochs")).toThrow(/key\.key=value/);
    expect(() => parse(least, "output.x=1")).toThrow(/output is a value/);
  });

  test("keeps activations in bfloat16 on GPUs whose products are in bfloat16, unless it says otherwise", () => {
    const activations = (...settings: string[]) => activationsOf(parse(least, ...settings));
    expect(activations()).toBe("float32");
    expect(activations("activations=bfloat16")).toBe("bfloat16");
    for (const device of ["cuda", "cuda:1", "emu"]) {
      expect(activations(`device=${device}`)).toBe("bfloat16");
      expect(activations(`device=${device}`, "precision=mixed")).toBe("bfloat16");
      expect(activations(`device=${device}`, "precision=float32")).toBe("float32");
      expect(activations(`device=${device}`, "activations=float32")).toBe("float32");
    }
  });

  test("that is not TOML is refused with the parser's reason", () => {
    expect(() => parse("a = = 1")).toThrow(/recipe\.toml is not TOML/);
  });
});
