import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { readSafetensorsHeader } from "../../src/model/safetensors.ts";
import { readAdapterConfig } from "../../src/model/lora.ts";
import { saveAdapter } from "../../src/train/adapter_file.ts";
import { families, familyDirectory } from "../support/paths.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { device, openFamily } from "./support.ts";

const peft = (family: string): string => join(familyDirectory(family), "lora");

/** Name, type, shape and bytes of each tensor. */
async function tensorsOf(directory: string) {
  const path = join(directory, "adapter_model.safetensors");
  const bytes = readFileSync(path);
  const { tensors } = await readSafetensorsHeader(path);
  return Object.fromEntries(
    [...tensors]
      .sort()
      .map(([name, { dtype, shape, begin, end }]) => [
        name,
        [dtype, shape, Bun.hash(bytes.subarray(begin, end))],
      ]),
  );
}

describe("an adapter", () => {
  test.each([...families])("of %s that PEFT wrote is written again with the same tensors", async (family) => {
    const opened = await openFamily(family, { adapter: peft(family) });
    const folder = temporaryFolder("adapter");
    const lora = await readAdapterConfig(peft(family));
    await saveAdapter(device, opened.memory.adapters!, lora, folder, "org/base");
    expect(await tensorsOf(folder)).toEqual(await tensorsOf(peft(family)));
    expect(await readAdapterConfig(folder)).toEqual(lora);
    const [ours, theirs] = [folder, peft(family)].map((path) =>
      JSON.parse(readFileSync(join(path, "adapter_config.json"), "utf8")),
    );
    for (const key of ["peft_type", "task_type", "r", "lora_alpha", "bias", "use_rslora", "fan_in_fan_out"])
      expect({ key, value: ours[key] }).toEqual({ key, value: theirs[key] });
    opened.close();
  });

  test("with what Koala does not compute is refused, naming it", async () => {
    const folder = temporaryFolder("adapter");
    await cp(peft("llama-mha"), folder, { recursive: true });
    const path = join(folder, "adapter_config.json");
    const config = await Bun.file(path).json();
    for (const [key, value] of [
      ["use_dora", true],
      ["rank_pattern", { q_proj: 8 }],
      ["modules_to_save", ["lm_head"]],
      ["bias", "all"],
    ] as const) {
      await Bun.write(path, JSON.stringify({ ...config, [key]: value }));
      expect(readAdapterConfig(folder)).rejects.toThrow(new RegExp(`${key} is .* not supported`));
    }
    await Bun.write(path, JSON.stringify({ ...config, target_modules: ["q_proj", "router"] }));
    expect(openFamily("llama-mha", { adapter: folder })).rejects.toThrow(/router is not a linear layer/);
    await Bun.write(path, JSON.stringify({ ...config, target_modules: ["q_proj"] }));
    expect(openFamily("llama-mha", { adapter: folder })).rejects.toThrow(/has no place/);
    await Bun.write(path, JSON.stringify({ ...config, r: 8 }));
    expect(openFamily("llama-mha", { adapter: folder })).rejects.toThrow(/shape/);
  });
});
