/** LoRA adapters beside the base in one runner: what PEFT computed, and what neighbours must not change. */
import { afterAll, describe, expect, test } from "bun:test";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { greedy } from "../../src/engine/runner.ts";
import { readAdapterConfig } from "../../src/model/lora.ts";
import { randomAdapter } from "../support/random_adapter.ts";
import { farthest, readGolden } from "../support/golden.ts";
import { openModel, row } from "../support/models.ts";
import { families, familyDirectory } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";

const V = 512;
const peft = (family: string): string => join(familyDirectory(family), "lora");

describe.each([...families])("an adapter that PEFT wrote for %s", (family) => {
  const golden = readGolden(family);
  const opened = openModel(familyDirectory(family), { dtype: "float32" });
  afterAll(async () => (await opened).close());

  test("gives PEFT's logits within 1e-4 in float32, and the base gives its own beside it", async () => {
    const runner = await opened;
    const adapter = await runner.loadAdapter(peft(family));
    const { values } = (await golden).floats("lora.logits");
    const base = (await golden).floats("logits").values;
    (await golden).ids("inputs.ids").forEach((ids, b) => {
      const place = [b * ids.length * V, (b + 1) * ids.length * V] as const;
      expect(farthest(runner.logitsOf(row(0, ids, 0, { adapter })), values.subarray(...place))).toBeLessThan(
        1e-4,
      );
      expect(farthest(runner.logitsOf(row(1, ids, 0)), base.subarray(...place))).toBeLessThan(1e-4);
      // The adapter does something, so that the bound says something.
      expect(farthest(values.subarray(...place), base.subarray(...place))).toBeGreaterThan(1e-2);
    });
    adapter.close();
  });

  test.each(["float32", "bfloat16"] as const)(
    "answers the same in a mixed batch and in chunks of any size, bit for bit, in %s",
    async (dtype) => {
      const runner = await openModel(familyDirectory(family), { dtype, maxSequences: 16 });
      const adapters = [
        null,
        await runner.loadAdapter(peft(family)),
        await runner.loadAdapter(await randomAdapter(familyDirectory(family), { rank: 3, seed: 5 })),
        await runner.loadAdapter(
          await randomAdapter(familyDirectory(family), { rank: 5, seed: 6, targets: ["v_proj", "up_proj"] }),
        ),
      ];
      const prompts = (await golden).ids("inputs.ids");
      const scored = prompts.flatMap((ids, b) =>
        adapters.map((adapter, a) =>
          row(b * adapters.length + a, ids, 0, {
            adapter,
            score: { targets: [...ids.slice(1), -1], top: 3 },
            sample: { ...greedy, logprobs: 5 },
          }),
        ),
      );
      const alone = scored.map((one) => runner.step([one])[0]);
      // Other orders split and join the groups of rows.
      expect(runner.step(scored)).toEqual(alone as never);
      expect(runner.step(scored.toReversed()).toReversed()).toEqual(alone as never);
      const ids = prompts[0] as number[];
      const whole = adapters.map((adapter) => Array.from(runner.logitsOf(row(0, ids, 0, { adapter }))));
      expect(new Set(whole.map((logits) => logits.join())).size).toBe(adapters.length);
      for (const size of [1, 5])
        adapters.forEach((adapter, a) => {
          const parts: number[] = [];
          for (let past = 0; past < ids.length; past += size)
            parts.push(...runner.logitsOf(row(1, ids.slice(past, past + size), past, { adapter })));
          expect(parts).toEqual(whole[a] as number[]);
        });
      for (const adapter of adapters) adapter?.close();
      runner.close();
    },
  );
});

describe("an adapter directory", () => {
  const family = "llama-mha";
  const opened = openModel(familyDirectory(family), { dtype: "float32" });
  afterAll(async () => (await opened).close());

  test("with rank-stabilised scaling is scaled by alpha / sqrt(r)", async () => {
    const runner = await opened;
    const folder = temporaryFolder("adapter");
    await cp(peft(family), folder, { recursive: true });
    const path = join(folder, "adapter_config.json");
    const config = (await Bun.file(path).json()) as { r: number; lora_alpha: number };
    const lora = await readAdapterConfig(folder);
    // The same scale, once written as alpha / r and once as alpha / sqrt(r).
    await Bun.write(
      path,
      JSON.stringify({ ...config, use_rslora: true, lora_alpha: lora.alpha / Math.sqrt(lora.rank) }),
    );
    const [plain, stabilised] = [await runner.loadAdapter(peft(family)), await runner.loadAdapter(folder)];
    const ids = (await readGolden(family)).ids("inputs.ids")[0] as number[];
    const logits = [plain, stabilised].map((adapter) => runner.logitsOf(row(0, ids, 0, { adapter })));
    expect(farthest(logits[0] as Float32Array, logits[1] as Float32Array)).toBeLessThan(1e-5);
    plain.close();
    stabilised.close();
  });

  test("that does not fit is refused in one sentence that names what does not", async () => {
    const runner = await opened;
    const folder = temporaryFolder("adapter");
    await cp(peft(family), folder, { recursive: true });
    const path = join(folder, "adapter_config.json");
    const config = await Bun.file(path).json();
    for (const [change, message] of [
      [{ rank_pattern: { q_proj: 8 } }, /rank_pattern is .* not supported/],
      [{ use_dora: true }, /use_dora is true, which is not supported/],
      [{ modules_to_save: ["lm_head"] }, /modules_to_save is \["lm_head"\]/],
      [{ target_modules: ["lm_head"] }, /LoRA target lm_head is not a linear layer of a block/],
      [{ target_modules: ["embed_tokens"] }, /LoRA target embed_tokens is not/],
      [{ target_modules: ["q_proj"] }, /has no place beside this model's layers/],
      [{ r: 8 }, /has shape \[.*\], the model needs \[8,/],
    ] as const) {
      await Bun.write(path, JSON.stringify({ ...config, ...change }));
      await expect(runner.loadAdapter(folder)).rejects.toThrow(message);
    }
    await expect(runner.loadAdapter(peft("qwen2-bias"))).rejects.toThrow(/shape|has no place|missing/);
    await expect(runner.loadAdapter(familyDirectory(family))).rejects.toThrow(/holds no adapter_config.json/);
  });
});
