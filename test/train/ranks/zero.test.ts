import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../../src/model/config.ts";
import { SoloCommunicator } from "../../../src/tensor/communicator.ts";
import { defaultSetup, openMemory } from "../../../src/train/allocation.ts";
import { ZeroHooks } from "../../../src/train/ranks/zero.ts";
import { device } from "../support.ts";
import { dataOf, runFolder, TinyRun } from "./tiny_run.ts";

const folder = await runFolder();
const tied = await runFolder({ tied: true });

/** Runs to the end on `world` ranks. */
async function finished(world: number, settings: string[], of = folder): Promise<TinyRun> {
  const run = new TinyRun(of, ["checkpoint.interval=0", ...settings]);
  expect(await run.start({ world })).toBe("finished");
  expect(run.reports).toEqual([]);
  expect(run.losses()).toHaveLength(6);
  for (const event of run.events) {
    if (event.type !== "step") continue;
    // One rank has nobody to talk to; others say how long they did, and how long their work stood still for it.
    expect(event.commMs > 0).toBe(world > 1);
    expect(event.commWaitMs > 0).toBe(world > 1);
  }
  return run;
}

const methodOf = (settings: string[]): "sft" | "dpo" | "kto" =>
  (["dpo", "kto"] as const).find((method) => settings.includes(`method.type=${method}`)) ?? "sft";

const largestDifference = (a: number[], b: number[]): number =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));

describe("training gives the same bits", () => {
  /** Five rows a step: with two or four ranks some have no micro-batch left and must take part all the same. */
  const uneven = ["rows_per_step=5"];

  test("on 1, 2 and 4 ranks in stages 2 and 3", async () => {
    const one = await finished(1, [...uneven, "zero=2"]);
    for (const [world, stage] of [
      [1, 3],
      [2, 2],
      [2, 3],
      [4, 3],
    ] as const) {
      const run = await finished(world, [...uneven, `zero=${stage}`]);
      expect(run.losses()).toEqual(one.losses());
      expect(run.weights()).toBe(one.weights());
    }
  });

  test("on 8 ranks, one of which has one row more than the others", async () => {
    const [one, eight] = [
      await finished(1, ["rows_per_step=9", "zero=2"]),
      await finished(8, ["rows_per_step=9", "zero=3"]),
    ];
    expect(eight.losses()).toEqual(one.losses());
    expect(eight.weights()).toBe(one.weights());
  });

  test("in stages 0 and 1 for the same world, and to 1e-6 those of stage 2", async () => {
    const [none, first, second] = [
      await finished(2, ["zero=0"]),
      await finished(2, ["zero=1"]),
      await finished(2, ["zero=2"]),
    ];
    expect(first.losses()).toEqual(none.losses());
    expect(first.weights()).toBe(none.weights());
    expect(largestDifference(first.losses(), second.losses())).toBeLessThan(1e-6);
  });

  test("in stages 0 and 1 where sums are kept in bfloat16", async () => {
    const settings = ["precision=bf16", "gradients=bfloat16"];
    const none = await finished(2, [...settings, "zero=0"]);
    const first = await finished(2, [...settings, "zero=1"]);
    expect(first.losses()).toEqual(none.losses());
    expect(first.weights()).toBe(none.weights());
  });

  test("where every rank has one micro-batch, in stage 1, too", async () => {
    const [four, one] = [await finished(4, ["zero=1"]), await finished(1, ["zero=2"])];
    expect(four.losses()).toEqual(one.losses());
    expect(four.weights()).toBe(one.weights());
  });

  test.each([
    [
      "a tied head, dropout, split masters and recomputed blocks",
      tied,
      ["precision=bf16", "dropout.residual=0.1", "recompute=block"],
    ],
    [
      "bfloat16 activations",
      folder,
      ["precision=bf16", "activations=bfloat16", "gradients=float32", "export_dtype=bfloat16"],
    ],
    ["LoRA over sharded weights", folder, ["lora.rank=2", "lora.dropout=0.1"]],
    ["DPO, whose head runs twice", folder, ["method.type=dpo", "rows_per_step=2"]],
    ["KTO, whose reference point is that of all ranks", folder, ["method.type=kto", "rows_per_step=2"]],
  ])("with %s", async (_, of, settings) => {
    const validated = [...settings, `data.validation=${dataOf(of, methodOf(settings))}`];
    const one = await finished(1, [...validated, "zero=2"], of);
    const sharded = await finished(2, [...validated, "zero=3"], of);
    expect(sharded.losses()).toEqual(one.losses());
    expect(sharded.weights()).toBe(one.weights());
    expect(one.seen().map(({ type }) => type)).toEqual(["sample", "evaluation"]);
    expect(sharded.seen()).toEqual(one.seen());
  });
});

describe("weights of stage 3", () => {
  const config = parseConfig(
    {
      architectures: ["LlamaForCausalLM"],
      hidden_size: 16,
      num_attention_heads: 2,
      intermediate_size: 32,
      num_hidden_layers: 3,
      vocab_size: 32,
      max_position_embeddings: 32,
    },
    "test",
  );

  test("can be read while they are gathered and current, and never otherwise", () => {
    const memory = openMemory(device, config, { ...defaultSetup(config, 32), stage: 3 });
    const { base, trained, working } = memory;
    const hooks = new ZeroHooks(device, new SoloCommunicator(device), {
      base,
      trained,
      zeros: working.zeros,
    });
    const layer = (l: number) => base.blocks[l + 1]!;
    expect(() => layer(0).w).toThrow(
      "weights of layer 0 (update 0) are read, but not gathered: the buffer holds nothing",
    );
    hooks.need(1, "forward");
    expect(layer(0).w.size).toBe(layer(0).layout.size);
    // The next layer has arrived, but is not asked for yet.
    expect(() => layer(1).w).toThrow("the buffer holds layer 1 (update 0)");
    hooks.done(1);
    expect(() => layer(0).w).toThrow("are read, but not gathered");
    hooks.need(1, "forward");
    hooks.gather(1);
    expect(() => layer(0).w).toThrow(
      "weights of layer 0 (update 1) are read, but not gathered: the buffer holds layer 0 (update 0)",
    );
    // Layer 2 takes the buffer of layer 0, which is still in use.
    expect(() => hooks.need(3, "forward")).toThrow(
      "gathering layer 2 would overwrite layer 0 (update 0), which is in use",
    );
    memory.close();
  });

  test("take a share of the memory, with two buffers of weights and two of gradients", () => {
    const bytes = (stage: 1 | 3, world: number) => {
      const setup = { ...defaultSetup(config, 32), stage, share: { rank: 0, world } };
      const { bytes: taken, base, close } = openMemory(device, config, setup);
      close();
      return { taken, sizes: base.layout.blocks.map(({ size }) => 4 * size) };
    };
    const { taken, sizes } = bytes(3, 4);
    const [first = 0, layer = 0] = sizes;
    const last = sizes.at(-1)!;
    const whole = sizes.reduce((a, b) => a + b, 0);
    expect(taken.weights).toBe(whole / 4 + first + 2 * layer + last);
    expect(taken.optimizer).toBe((2 * whole) / 4);
    expect(taken.gradients).toBe(whole / 4 + first + layer + Math.max(layer, last));
    expect(bytes(1, 4).taken).toMatchObject({ weights: whole, gradients: whole, optimizer: (2 * whole) / 4 });
  });
});
