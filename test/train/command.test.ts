import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { DatasetWriter } from "../../src/data/shard.ts";
import { selfCommand } from "../../src/util/self_command.ts";
import { temporaryFolder } from "../support/temporary.ts";

const config = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 32,
  num_attention_heads: 2,
  intermediate_size: 48,
  num_hidden_layers: 2,
  vocab_size: 40,
  max_position_embeddings: 64,
};

async function setUp() {
  const folder = temporaryFolder("command");
  const [base, data, recipe] = ["base", "data", "recipe.toml"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await Bun.write(join(base, "config.json"), JSON.stringify(config));
  const writer = await DatasetWriter.create(data);
  for (let i = 0; i < 6; i++)
    writer.add([{ ids: [1, 5 + i, 6, 7, 2], loss: 1, source: "assistant", turn: 0 }]);
  await writer.finish({ hash: "command", pairs: false, inputs: {}, report: {} });
  const text = `output = ${JSON.stringify(join(folder, "out"))}
    steps = 3
    sequence_length = 16
    cost_per_hour = 2
    model = { path = ${JSON.stringify(base)}, init = "random" }
    data = { dataset = ${JSON.stringify(data)} }`;
  await Bun.write(recipe, text);
  const koala = async (...args: string[]) => {
    const child = Bun.spawn(selfCommand(...args), { stdout: "pipe", stderr: "pipe" });
    const [out, errors] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, out, errors };
  };
  return { folder, recipe, koala };
}

test("koala plan prints parameters, memory by kind, speed, time and cost", async () => {
  const { recipe, koala } = await setUp();
  const { code, out } = await koala("plan", recipe);
  expect(code).toBe(0);
  for (const name of [
    "parameters",
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "workspace",
    "memory",
    "steps",
    "tokens",
    "operations",
    "speed",
    "time",
    "cost",
  ])
    expect(out).toMatch(new RegExp(`^${name} `, "m"));
  expect(out).toMatch(/^activations .* \(float32; activations = "bfloat16" would save [\d.]+ [KMG]iB\)$/m);
  const json = JSON.parse((await koala("plan", recipe, "--json", "--no-measure", "--set", "steps=5")).out);
  // Two matrices of 40 x 32, and of each layer 4 of 32 x 32, 3 of 32 x 48 and 2 norms; the last norm.
  expect(json).toMatchObject({
    steps: 5,
    parameters: 2 * 40 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 48 + 2 * 32) + 32,
    time: null,
  });
});

test("koala train trains, and with --dry-run only plans", async () => {
  const { folder, recipe, koala } = await setUp();
  const dry = await koala("train", recipe, "--dry-run");
  expect(dry.code).toBe(0);
  expect(dry.out).toMatch(/^cost /m);
  expect(existsSync(join(folder, "out"))).toBe(false);
  const wet = await koala("train", recipe);
  expect(wet.code).toBe(0);
  expect(wet.errors).toMatch(/step 3\/3 .* loss \d/);
  expect(existsSync(join(folder, "out", "model", "koala.json"))).toBe(true);
  const again = await koala("train", recipe);
  expect(again).toMatchObject({ code: 1 });
  expect(again.errors).toMatch(/checkpoints of an earlier run\. Go on with --resume/);
}, 20_000);

test("a recipe with a mistake, and one that does not fit, end with one sentence", async () => {
  const { recipe, koala } = await setUp();
  const wrong = await koala("train", recipe, "--set", "optimiser.beta1=0.5");
  expect(wrong.code).toBe(1);
  expect(wrong.errors).toMatch(/^koala: .*recipe\.toml is not a recipe\. .*optimiser.*\n$/);
  const idle = await koala("train", recipe, "--dry-run", "--ranks", "4", "--set", "rows_per_step=2");
  expect([idle.code, idle.errors]).toEqual([
    1,
    "koala: A step has 2 rows, fewer than the 4 ranks. Raise rows_per_step or use fewer ranks.\n",
  ]);
  const large = await koala("plan", recipe, "--set", "micro_rows=200000000");
  expect(large.code).toBe(1);
  expect(large.errors).toMatch(
    /^koala: The run needs .* available\. It would fit with micro_rows = 1, which needs .*\n$/,
  );
});

test("koala train takes a number of GPUs or a list of them, and no more ranks at least than at most", async () => {
  const { recipe, koala } = await setUp();
  for (const [flags, sentence] of [
    [["--ranks", "2", "--min-ranks", "3"], "--min-ranks 3 is more than --ranks 2. Name as many or fewer."],
    [
      ["--devices", "0,1", "--min-ranks", "3"],
      "--min-ranks 3 is more than --ranks 2. Name as many or fewer.",
    ],
    [["--devices", "0,1,0"], "It must be a number of GPUs, or a list of up to 8 different ones."],
    [["--devices", "0,1", "--ranks", "2"], "--devices stands for --device cuda and --ranks; name it alone."],
  ] as const) {
    const { code, errors } = await koala("train", recipe, ...flags);
    expect(errors).toContain(sentence);
    expect(code).toBe(1);
  }
});
