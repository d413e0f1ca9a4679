import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { DatasetWriter, openDataset } from "../../src/data/shard.ts";
import { parseConfig } from "../../src/model/config.ts";
import { Arena } from "../../src/tensor/arena.ts";
import { defaultSetup, openMemory, planMemory } from "../../src/train/allocation.ts";
import { DataOrder } from "../../src/train/data_order.ts";
import { stepFlops, workOf } from "../../src/train/flops.ts";
import { fittingChange, planRun } from "../../src/train/plan.ts";
import { parseRecipe } from "../../src/train/recipe.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { device } from "./support.ts";
import { Device } from "../../src/tensor/device.ts";
import { libraryPath } from "../../src/tensor/library.ts";
import { alone } from "../../src/train/flat_state.ts";
import { TrainModel } from "../../src/train/model.ts";
import { TrainOps } from "../../src/train/ops.ts";
import { defaultAdamW, Optimizer } from "../../src/train/optimizer.ts";
import { Stepper } from "../../src/train/step.ts";

/** LLaMA-7B's shape. */
const llama7b = parseConfig(
  {
    architectures: ["LlamaForCausalLM"],
    hidden_size: 4096,
    num_attention_heads: 32,
    intermediate_size: 11008,
    num_hidden_layers: 32,
    vocab_size: 32000,
    max_position_embeddings: 2048,
  },
  "7b",
);
const tiny = {
  ...llama7b,
  hiddenSize: 64,
  headCount: 4,
  keyValueHeadCount: 2,
  headDim: 16,
  intermediateSize: 96,
  layerCount: 3,
  vocabularySize: 128,
  windows: [0, 0, 0],
};

const recipe = (...settings: string[]) =>
  parseRecipe(
    'output = "out"\nepochs = 2\nsequence_length = 64\nrows_per_step = 2\n[model]\npath = "x"\n[data]\ndataset = "d"\n',
    "recipe.toml",
    settings,
  );

async function dataOf(lengths: number[]) {
  const directory = join(temporaryFolder("plan"), "data");
  const writer = await DatasetWriter.create(directory);
  for (const length of lengths)
    writer.add([{ ids: Array<number>(length).fill(5), loss: 1, source: "assistant", turn: 0 }]);
  await writer.finish({ hash: "plan", pairs: false, inputs: {}, report: {} });
  return openDataset(directory);
}

describe("the plan's bytes", () => {
  test("are those that the arenas take, to the byte", () => {
    const adapted = { rank: 4, alpha: 8, dropout: 0.1, targets: ["q_proj", "up_proj"], rsLora: false };
    for (const [activations, lora] of [
      ["float32", null],
      ["float32", adapted],
      ["bfloat16", null],
      ["bfloat16", adapted],
    ] as const) {
      const setup = { ...defaultSetup(tiny, 64), precision: "bf16", activations, lora } as const;
      const planned = planMemory(device, tiny, setup);
      const taken: Record<string, number> = {};
      const take = Arena.prototype.take;
      Arena.prototype.take = function (bytes, what) {
        const at = take.call(this, bytes, what);
        taken[this.name] = this.used;
        return at;
      };
      try {
        openMemory(device, tiny, setup).close();
      } finally {
        Arena.prototype.take = take;
      }
      const { scratch: _, ...arenas } = planned;
      // Borders of documents to rehearse attention with: given back before the run.
      delete taken["starts"];
      expect(taken).toEqual(Object.fromEntries(Object.entries(arenas).filter(([, bytes]) => bytes > 0)));
    }
  });

  test("are all that a step of long documents takes: arenas, and scratch of the ops, which grows no more", () => {
    for (const [precision, activations, headCount, maxTokens] of [
      ["bf16", "float32", 4, 3000],
      ["bf16", "bfloat16", 4, 3000],
      ["float32", "float32", 2, 1500],
    ] as const) {
      const own = Device.open(libraryPath("cpu"), { threads: 2 });
      const wide = { ...tiny, layerCount: 1, windows: [0], headCount, headDim: 32, maxPositions: maxTokens };
      const setup = {
        ...defaultSetup(wide, maxTokens),
        precision,
        activations,
        positions: maxTokens / 2,
        chunkRows: 64,
      };
      const planned = planMemory(own, wide, setup);
      let allocated = 0;
      const allocate = Device.prototype.allocate;
      Device.prototype.allocate = function (bytes) {
        allocated += bytes;
        return allocate.call(this, bytes);
      };
      const memory = (() => {
        try {
          return openMemory(own, wide, setup);
        } finally {
          Device.prototype.allocate = allocate;
        }
      })();
      const ops = new TrainOps(own);
      const optimizer = new Optimizer(ops, memory.trained, defaultAdamW, 1, alone);
      const model = new TrainModel(ops, wide, memory, setup);
      const stepper = new Stepper(own, memory, model, optimizer, {
        method: { type: "sft", reduction: "token" },
        microRows: 3,
        seed: 1,
        forget: { min: 0, max: 0 },
        share: alone,
      });
      const document = (length: number) => ({
        ids: new Int32Array(length).fill(3),
        weights: new Float32Array(length).fill(1),
      });
      const half = maxTokens / 2;
      stepper.run(0, [[document(half)], [document(half / 2), document(half / 4), document(half / 4)]], 1e-3);
      expect(own.scratchBytes).toBe(planned.scratch);
      const total = Object.values(planned).reduce((a, b) => a + b, 0);
      // The arena of document borders is given back before the run.
      expect(Math.abs((allocated + own.scratchBytes) / total - 1)).toBeLessThan(0.03);
      // Attention over long documents takes a good part of it.
      expect(planned.scratch / total).toBeGreaterThan(0.1);
      memory.close();
      own.close();
    }
  });

  test("of LLaMA-7B are what arithmetic says: 16 bytes a parameter in float32, 10 with bfloat16 weights, gradients and moments", () => {
    const parameters = 6_738_415_616;
    for (const [precision, kept, bytes] of [
      ["float32", "float32", 16],
      ["bf16", "float32", 2 + 4 + 2 + 4],
      ["bf16", "bfloat16", 2 + 2 + 2 + 4],
    ] as const) {
      const { weights, gradients, optimizer } = planMemory(device, llama7b, {
        ...defaultSetup(llama7b, 2048),
        precision,
        gradients: kept,
      });
      expect((weights + gradients + optimizer) / parameters).toBeCloseTo(bytes, 2);
    }
  });

  test("of activations fall with every rung", () => {
    const sizes = (["none", "norm+swiglu", "ffn", "block"] as const).map(
      (rung) =>
        planMemory(device, llama7b, { ...defaultSetup(llama7b, 2048), rungs: Array(32).fill(rung) })
          .activations,
    );
    expect(sizes).toEqual(sizes.toSorted((a, b) => b - a));
    expect(sizes[3]!).toBeLessThan(sizes[0]! / 6);
  });

  test("of LLaMA-7B's activations halve in bfloat16, but for logits and sums", () => {
    const bytes = (activations: "float32" | "bfloat16", chunkRows = 256) =>
      planMemory(device, llama7b, {
        ...defaultSetup(llama7b, 2048),
        precision: "bf16",
        activations,
        chunkRows,
      }).activations;
    const [D, F, V, T, layers] = [4096, 11008, 32000, 2048, 32];
    // A layer keeps x, h1, mid, h2, attention (D each), q, k, v (3 D), gate and up (2 F), their product (F); lse beside.
    const kept = T * (layers * (8 * D + 3 * F) + D);
    // What flows back: dx, branch, dh, dq, dk, dv, dattended; the head has norm(x), selected rows and their gradient.
    const flow = T * (7 * D + 3 * F) + 3 * T * D;
    expect(bytes("float32") / (4 * (kept + flow + 256 * V))).toBeCloseTo(1, 2);
    expect(bytes("bfloat16") / (2 * (kept + flow) + 4 * 256 * (V + D))).toBeCloseTo(1, 2);
    expect(bytes("bfloat16", 1) / bytes("float32", 1)).toBeCloseTo(0.5, 2);
  });
});

describe("a plan", () => {
  test("counts steps, tokens and operations of the run", async () => {
    const dataset = await dataOf([64, 40, 24, 30, 20]);
    const plan = planRun({ recipe: recipe(), config: tiny, dataset, device, measure: false });
    // Three rows an epoch (64; 40 + 24; 30 + 20), two a step: two steps.
    expect(plan).toMatchObject({ steps: 4, tokens: 2 * 178, time: null });
    expect(plan.fill).toBeCloseTo(178 / 192, 10);
    const perToken = 6 * (3 * (64 * (64 + 64) + 64 * 64 + 3 * 64 * 96) + 128 * 64 * (178 / 178));
    expect(plan.flops).toBeGreaterThan(2 * 178 * perToken * 0.99);
    expect(plan.flops).toBeLessThan(2 * 178 * perToken * 1.3);
    // On the CPU activations are float32 by default; what bfloat16 would save is what it does save.
    const half = planRun({
      recipe: recipe("activations=bfloat16"),
      config: tiny,
      dataset,
      device,
      measure: false,
    });
    expect(plan.activations).toEqual({ type: "float32", savedBytes: plan.totalBytes - half.totalBytes });
    expect(half.activations).toEqual({ type: "bfloat16", savedBytes: null });
    expect(half.totalBytes).toBeLessThan(plan.totalBytes);
    dataset.close();
  });

  test("gives a time and a cost from a layer of this model on this machine", async () => {
    const dataset = await dataOf([64, 40, 24, 30, 20]);
    const { time, tokens } = planRun({
      recipe: recipe("cost_per_hour=3600"),
      config: tiny,
      dataset,
      device,
      measure: true,
    });
    expect(time!.tokensPerSecond).toBeGreaterThan(0);
    expect(time!.hours * 3600 * time!.tokensPerSecond).toBeCloseTo(tokens, 6);
    expect(time!.cost).toBeCloseTo(time!.hours * 3600, 6);
    dataset.close();
  });

  test("that does not fit names the cheapest setting that would", () => {
    const large = recipe("sequence_length=2048", "micro_rows=4", "precision=float32");
    const change = (available: number) =>
      fittingChange({ recipe: large, config: llama7b, device }, available);
    expect(change(1e9)).toBeNull();
    // 108 GB of state; what the activations of 8192 tokens may take decides the rung.
    expect(change(170e9)).toMatch(/^recompute = "norm\+swiglu", which needs 1\d\d\.\d GiB$/);
    expect(change(130e9)).toMatch(/^recompute = "block", which needs/);
    expect(change(95e9)).toMatch(/^precision = "bf16"/);
    const recomputed = recipe("sequence_length=2048", "recompute=block");
    expect(fittingChange({ recipe: recomputed, config: llama7b, device }, 71e9)).toMatch(
      /^activations = "bfloat16", which needs 6\d\.\d GiB$/,
    );
  });
});

test("useful operations of LLaMA-7B are six a parameter and token, and attention's", () => {
  const work = workOf([{ length: 2048, trained: 2048 }]);
  const { useful } = stepFlops(llama7b, work, { frozen: false, rungs: [] });
  const matrices = 6_738_415_616 - 32000 * 4096 - 65 * 4096;
  const attention = 32 * 3 * 2 * 2048 * 2048 * 4096;
  expect(useful).toBe(6 * 2048 * matrices + attention);
});

describe("the order of data", () => {
  const lengths = Uint32Array.from({ length: 50 }, (_, i) => 5 + ((i * 13) % 50));
  const order = (options: object) =>
    new DataOrder(
      { lengths, pairs: false },
      { sequenceLength: 64, seed: 1, rowsPerStep: 3, epochs: null, steps: null, ...options },
    );

  test("gives each document once an epoch, whatever is asked first", () => {
    const run = order({ epochs: 2 });
    const seen = Array.from({ length: run.steps }, (_, step) =>
      run.rows(run.steps - 1 - step).flatMap((row) => [...row]),
    ).flat();
    expect(seen.sort((a, b) => a - b)).toEqual([...lengths.keys()].flatMap((i) => [i, i]));
  });

  test("ends where steps or a fraction of an epoch say", () => {
    const whole = order({ epochs: 1 }).steps;
    expect(order({ epochs: 1.5 }).steps).toBe(whole + Math.ceil(order({ epochs: 2 }).steps / 4));
    expect(order({ steps: 7 }).steps).toBe(7);
    expect(order({ epochs: 2 }).endsEpoch(whole)).toBe(true);
    expect(order({ epochs: 2 }).endsEpoch(whole - 1)).toBe(false);
    expect(order({ epochs: 2 }).epochsDone(whole)).toBe(1);
    expect(() => order({ steps: 7 }).rows(7)).toThrow();
  });

  test("keeps pairs together", () => {
    const pairs = new DataOrder(
      { lengths, pairs: true },
      { sequenceLength: 64, seed: 1, rowsPerStep: 3, epochs: 1, steps: null },
    );
    for (let step = 0; step < pairs.steps; step++)
      for (const row of pairs.rows(step))
        for (let i = 0; i < row.length; i += 2) expect([row[i]! % 2, row[i + 1]!]).toEqual([0, row[i]! + 1]);
  });
});
