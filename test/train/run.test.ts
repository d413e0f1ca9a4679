import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { DatasetWriter } from "../../src/data/shard.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { parseRecipe } from "../../src/train/recipe.ts";
import { type RunOptions, runTraining } from "../../src/train/run.ts";
import { greedy } from "../../src/engine/runner.ts";
import { openModel } from "../support/models.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { device } from "./support.ts";

const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 64,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 128,
  num_hidden_layers: 2,
  vocab_size: 64,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
  eos_token_id: 2,
};
const [good, bad, end] = [3, 4, 2];
/** Sixteen questions of three tokens, each with an answer behind either marker. */
const questions = Array.from({ length: 16 }, (_, i) => [5 + i, 5 + ((i * 7) % 16), 40]);
const answerOf = (question: number, marker: number): number[] =>
  Array.from({ length: 4 }, (_, i) => 24 + ((question * (marker === good ? 5 : 3) + i * 7 + marker) % 16));

async function writeData(directory: string): Promise<string> {
  const writer = await DatasetWriter.create(directory);
  const segment = (ids: number[], loss: number) => ({ ids, loss, source: "user", turn: 0 });
  questions.forEach((question, q) => {
    for (const marker of [good, bad])
      writer.add([segment([1, marker, ...question], 0), segment([...answerOf(q, marker), end], 1)]);
  });
  await writer.finish({
    hash: "test",
    pairs: false,
    inputs: { template: "test template", tokenizer: "0123456789abcdef".repeat(4) },
    report: {},
  });
  return directory;
}

/** The good answer is chosen, the bad one rejected, behind the same marker. */
async function writePairs(directory: string): Promise<string> {
  const writer = await DatasetWriter.create(directory);
  questions.forEach((question, q) => {
    for (const marker of [good, bad])
      writer.add([
        { ids: [1, good, ...question], loss: 0, source: "user", turn: 0 },
        { ids: [...answerOf(q, marker), end], loss: 1, source: "assistant", turn: 1 },
      ]);
  });
  await writer.finish({ hash: "pairs", pairs: true, inputs: {}, report: {} });
  return directory;
}

const recipeText = (output: string): string => `
output = ${JSON.stringify(output)}
sequence_length = 32
rows_per_step = 16
micro_rows = 8
seed = 3
[checkpoint]
epochs = false
[model]
path = "test"
init = "random"
[data]
dataset = "data"
[schedule]
type = "wsd"
learning_rate = 5e-3
warmup_steps = 10
[optimizer]
beta2 = 0.95
`;

async function setUp(...settings: string[]) {
  const directory = temporaryFolder("train");
  const model = join(directory, "base");
  await Bun.write(join(model, "config.json"), JSON.stringify(config));
  const dataset = await writeData(join(directory, "data"));
  const recipe = parseRecipe(recipeText(join(directory, "out")), "recipe.toml", settings);
  const events: TrainEvent[] = [];
  const options: RunOptions = {
    recipe,
    model,
    dataset,
    resume: false,
    measure: false,
    device,
    onEvent: (event) => events.push(event),
  };
  const losses = () => events.flatMap((event) => (event.type === "step" ? [event.loss] : []));
  return { directory, options, events, losses };
}

describe("a run of a small random model over 32 dialogues", () => {
  test.each([
    ["float32", []],
    ["bf16", []],
    ["bf16", ["activations=bfloat16"]],
  ] as [string, string[]][])(
    "in %s %p memorises them; the marker decides the answer; the engine serves what was trained",
    async (precision, settings) => {
      const prompts = questions.map((question) => ({
        ids: [1, good, ...question],
        tokensMax: 6,
        stopIds: [end],
      }));
      const { options, events, losses } = await setUp("steps=90", `precision=${precision}`, ...settings);
      const exported = await runTraining({ ...options, prompts });
      expect(losses()[0]!).toBeGreaterThan(3.5);
      expect(losses().at(-1)!).toBeLessThan(0.05);
      const accuracies = events.flatMap((event) => (event.type === "step" ? [event.accuracy!] : []));
      expect(accuracies[0]!).toBeLessThan(0.2);
      expect(accuracies.at(-1)!).toBe(1);
      const samples = events.find((event) => event.type === "sample");
      expect(samples?.ids).toEqual(questions.map((_, q) => answerOf(q, good)));
      const runner = await openModel(exported!, { dtype: precision === "bf16" ? "bfloat16" : "float32" });
      for (const marker of [good, bad]) {
        for (const [q, question] of questions.entries())
          expect(answer(runner, [1, marker, ...question])).toEqual(answerOf(q, marker));
      }
      runner.close();
    },
    20_000,
  );

  test("leaves metrics, an event file and a record of tokenizer and template", async () => {
    const { directory, options, events } = await setUp("steps=3");
    const exported = await runTraining(options);
    const lines = readFileSync(join(directory, "out", "metrics.jsonl"), "utf8")
      .trim()
      .split("\n");
    expect(lines.map((line) => JSON.parse(line).type)).toEqual(events.map((event) => event.type));
    expect(readdirSync(join(directory, "out")).some((name) => name.startsWith("events.out.tfevents."))).toBe(
      true,
    );
    const record = await Bun.file(join(exported!, "koala.json")).json();
    expect(record).toMatchObject({ base: "test", template: "test template", dataset: "test", steps: 3 });
    expect(record.tokenizer).toBe("0123456789abcdef".repeat(4));
  });
});

describe("a run that is stopped", () => {
  test("at a checkpoint and resumed ends with the bits of one that was not", async () => {
    const settings = [
      "epochs=6",
      "precision=bf16",
      "dropout.residual=0.1",
      "checkpoint.interval=2",
      "rows_per_step=2",
    ];
    const straight = await setUp(...settings);
    const first = await runTraining(straight.options);
    const broken = await setUp(...settings);
    const stop = new AbortController();
    const onEvent = (event: TrainEvent) => {
      broken.events.push(event);
      if (event.type === "step" && event.step === 5) stop.abort("asked to");
    };
    expect(await runTraining({ ...broken.options, onEvent, stop: stop.signal })).toBeNull();
    expect(broken.events.at(-1)).toMatchObject({ type: "stop", step: 5, reason: "asked to" });
    expect(runTraining(broken.options)).rejects.toThrow(/--resume/);
    const second = await runTraining({ ...broken.options, resume: true });
    expect(broken.losses()).toEqual(straight.losses());
    const weights = (path: string) => Bun.hash(readFileSync(join(path, "model.safetensors")));
    expect(weights(second!)).toBe(weights(first!));
    const steps = readFileSync(join(broken.directory, "out", "metrics.jsonl"), "utf8").matchAll(
      /"type":"step","step":(\d+)/g,
    );
    expect([...steps].map(([, step]) => Number(step))).toEqual(straight.losses().map((_, i) => i + 1));
  });

  test("may go on with activations of another type, which no checkpoint holds", async () => {
    const settings = ["epochs=6", "rows_per_step=2", "checkpoint.interval=2"];
    const straight = await setUp(...settings);
    await runTraining(straight.options);
    const broken = await setUp(...settings);
    const stop = new AbortController();
    const onEvent = (event: TrainEvent) => {
      broken.events.push(event);
      if (event.type === "step" && event.step === 4) stop.abort("asked to");
    };
    await runTraining({ ...broken.options, onEvent, stop: stop.signal });
    const recipe = { ...broken.options.recipe, activations: "bfloat16" } as const;
    await runTraining({ ...broken.options, recipe, resume: true });
    expect(broken.losses().slice(0, 4)).toEqual(straight.losses().slice(0, 4));
    expect(broken.losses().at(-1)).not.toBe(straight.losses().at(-1));
    broken.losses().forEach((loss, i) => expect(Math.abs(loss - straight.losses()[i]!)).toBeLessThan(2e-2));
  });

  test("does not go on with other data or another size of step", async () => {
    const run = await setUp("steps=2");
    await runTraining(run.options);
    const other = await DatasetWriter.create(join(run.directory, "other"));
    other.add([{ ids: [1, 2, 3], loss: 1, source: "user", turn: 0 }]);
    await other.finish({ hash: "other", pairs: false, inputs: {}, report: {} });
    const options = { ...run.options, dataset: join(run.directory, "other"), resume: true };
    expect(runTraining(options)).rejects.toThrow(/other data/);
    const recipe = { ...run.options.recipe, rows_per_step: 4 };
    expect(runTraining({ ...run.options, recipe, resume: true })).rejects.toThrow(
      /made with rows_per_step = 16, the recipe now says 4/,
    );
  });
});

describe("DPO", () => {
  test("starts at log 2, learns to prefer the chosen answers, and resumes with the reference it began with", async () => {
    const base = await setUp("steps=20", "precision=float32", "export_dtype=float32");
    const model = (await runTraining(base.options))!;
    const settings = [
      "epochs=12",
      "precision=float32",
      "model.init=checkpoint",
      "method.type=dpo",
      "schedule.learning_rate=2e-3",
      "schedule.warmup_steps=0",
      "checkpoint.interval=3",
      "rows_per_step=4",
    ];
    const straight = await setUp(...settings);
    const pairs = await writePairs(join(straight.directory, "pairs"));
    await runTraining({ ...straight.options, model, dataset: pairs });
    const steps = straight.events.flatMap((event) => (event.type === "step" ? [event] : []));
    expect(steps[0]!.loss).toBeCloseTo(Math.log(2), 6);
    expect(steps.at(-1)!.loss).toBeLessThan(0.3);
    expect(steps.at(-1)!.preference!.accuracy).toBe(1);
    expect(steps.at(-1)!.preference!.margin).toBeGreaterThan(1);
    const broken = await setUp(...settings);
    const stop = new AbortController();
    const onEvent = (event: TrainEvent) => {
      broken.events.push(event);
      if (event.type === "step" && event.step === 3) stop.abort("asked to");
    };
    await runTraining({ ...broken.options, model, dataset: pairs, onEvent, stop: stop.signal });
    const scores = statSync(join(broken.directory, "out", "reference.json")).mtimeMs;
    await runTraining({ ...broken.options, model, dataset: pairs, resume: true });
    expect(broken.losses()).toEqual(straight.losses());
    expect(statSync(join(broken.directory, "out", "reference.json")).mtimeMs).toBe(scores);
  });

  test("refuses data without pairs", async () => {
    const run = await setUp("steps=1", "method.type=dpo");
    expect(runTraining(run.options)).rejects.toThrow(/single documents/);
  });
});

describe("KTO", () => {
  /** Good answers and bad ones, one of each to a question, with the other question's answer behind each. */
  async function writeLabelled(directory: string): Promise<string> {
    const writer = await DatasetWriter.create(directory);
    const answers = questions.flatMap((question, q) =>
      [good, bad].map((marker) => ({ question, q, marker })),
    );
    answers.forEach(({ question, q, marker }, i) => {
      writer.addLabel(marker === good);
      const other = answers[(i + answers.length - 3) % answers.length]!;
      for (const ids of [answerOf(q, marker), answerOf(other.q, other.marker)])
        writer.add([
          { ids: [1, good, ...question], loss: 0, source: "user", turn: 0 },
          { ids: [...ids, end], loss: 1, source: "assistant", turn: 1 },
        ]);
    });
    await writer.finish({ hash: "labelled", pairs: true, inputs: {}, report: {} });
    return directory;
  }

  test("starts at one half, learns to tell good answers from bad ones, and keeps its reference", async () => {
    const settings = [
      "steps=40",
      "method.type=kto",
      "method.beta=0.5",
      "schedule.learning_rate=2e-3",
      "dropout.attention=0.05",
      "fcm.max=0.1",
    ];
    const { directory, options, events, losses } = await setUp(...settings);
    const dataset = await writeLabelled(join(directory, "labelled"));
    await runTraining({ ...options, dataset });
    // Before the first update every log-ratio is 0 but for what dropout does.
    expect(losses()[0]!).toBeCloseTo(0.5, 1);
    expect(losses().at(-1)!).toBeLessThan(0.2);
    const steps = events.filter((event) => event.type === "step");
    expect(steps.at(-1)!.preference!.accuracy).toBeGreaterThan(0.9);
    expect(steps.at(-1)!.preference!.margin).toBeGreaterThan(2);
    expect(steps[0]!.kl).toBeCloseTo(0, 5);
    expect(steps.every(({ kl }) => kl! >= 0)).toBe(true);
    expect(existsSync(join(directory, "out", "reference.json"))).toBe(true);
    await expect(
      runTraining({ ...options, recipe: { ...options.recipe, output: join(directory, "b") } }),
    ).rejects.toThrow("The data holds single documents, which method kto cannot train on.");
  });
});

test("a bfloat16 run exports the float32 masters where float32 is asked for", async () => {
  const read = async (dtype: string) => {
    const { options } = await setUp("steps=3", "precision=bf16", `export_dtype=${dtype}`);
    const directory = await runTraining(options);
    const bytes = readFileSync(join(directory!, "model.safetensors"));
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<
      string,
      { dtype: string; data_offsets: [number, number] }
    >;
    const { dtype: type, data_offsets: offsets } = header["model.layers.0.mlp.up_proj.weight"]!;
    return { type, data: Uint8Array.from(bytes.subarray(8 + length + offsets[0], 8 + length + offsets[1])) };
  };
  const [master, rounded] = [await read("float32"), await read("bfloat16")];
  expect([master.type, rounded.type]).toEqual(["F32", "BF16"]);
  const words = new Uint32Array(master.data.buffer);
  const halves = new Uint16Array(rounded.data.buffer);
  // The weights of the run are its masters rounded half up; what they lost is in the export.
  expect(Array.from(words, (bits) => ((bits + 0x8000) >>> 16) & 0xffff)).toEqual(Array.from(halves));
  expect(words.filter((bits) => (bits & 0xffff) !== 0).length).toBeGreaterThan(0.99 * words.length);
});

describe("LoRA", () => {
  test("trains, and its merged export answers as base and adapter do", async () => {
    const base = await setUp("steps=20", "precision=float32", "export_dtype=float32");
    const model = (await runTraining(base.options))!;
    const settings = [
      "steps=4",
      "precision=float32",
      "export_dtype=float32",
      "model.init=checkpoint",
      "schedule.learning_rate=5e-4",
      "lora.rank=4",
      "lora.rslora=true",
      "schedule.warmup_steps=0",
    ];
    const tuned = await setUp(...settings);
    const exported = await runTraining({ ...tuned.options, model });
    expect(existsSync(join(exported!, "adapter", "adapter_model.safetensors"))).toBe(true);
    const scores: number[] = [];
    for (const path of [model, exported!]) {
      const check = await setUp(
        "steps=1",
        "precision=float32",
        "model.init=checkpoint",
        "schedule.learning_rate=1e-9",
      );
      await runTraining({ ...check.options, model: path });
      scores.push(check.losses()[0]!);
    }
    expect(scores[1]!).toBeLessThan(scores[0]!);
    // The loss after the last step of LoRA, with base and adapter apart, is that of the merged weights.
    const longer = await setUp(...settings.with(0, "steps=5"));
    await runTraining({ ...longer.options, model });
    expect(scores[1]!).toBeCloseTo(longer.losses()[4]!, 4);
  });
});

/** The engine's greedy answer, up to the end token. */
function answer(runner: Awaited<ReturnType<typeof openModel>>, prompt: number[]): number[] {
  const ids: number[] = [];
  for (; ids.length < 6;) {
    const tokens = [...prompt, ...ids];
    const row = { tokens, past: 0, pages: [1], sample: greedy, score: null, embed: false };
    const id = runner.step([row])[0]!.id!;
    if (id === end) break;
    ids.push(id);
  }
  return ids;
}
