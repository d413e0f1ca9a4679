/** PEFT directories with random matrices, for models that nobody adapted: loud enough to change what is said. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { readConfig } from "../../src/model/config.ts";
import {
  adapterConfigFile,
  adapterParts,
  adapterTensorName,
  adapterWeightsFile,
  linearNames,
  peftPrefix,
} from "../../src/model/lora.ts";
import { type TensorToWrite, writeSafetensors } from "../../src/model/safetensors.ts";
import { uniform } from "../../src/util/rng.ts";
import { temporaryFolder } from "./temporary.ts";

/** In `directory`, or in a folder that goes with the test; hooks name one, because they cannot leave a hook behind. */
export async function randomAdapter(
  base: string,
  options: { rank: number; seed: number; targets?: string[]; alpha?: number; directory?: string },
): Promise<string> {
  const { rank, seed, targets = [...linearNames], alpha = 2 * rank } = options;
  const directory = options.directory ?? temporaryFolder("adapter");
  await mkdir(directory, { recursive: true });
  const config = await readConfig(base);
  const lora = { rank, alpha, dropout: 0, targets, rsLora: false };
  let drawn = 0;
  const tensor = (name: string, shape: number[], width: number): TensorToWrite => {
    const values = Float32Array.from(
      { length: (shape[0] as number) * (shape[1] as number) },
      () => (uniform(seed, drawn++) - 0.5) * 2 * width,
    );
    return { name: peftPrefix + name, dtype: "F32", shape, data: () => [new Uint8Array(values.buffer)] };
  };
  const tensors = Array.from({ length: config.layerCount }, (_, layer) =>
    adapterParts(config, lora, layer).flatMap(({ path, width, K }) => [
      tensor(adapterTensorName(layer, path, "lora_A"), [rank, K], 1 / Math.sqrt(K)),
      tensor(adapterTensorName(layer, path, "lora_B"), [width, rank], 1 / Math.sqrt(rank)),
    ]),
  ).flat();
  await writeSafetensors(join(directory, adapterWeightsFile), tensors, { format: "pt" });
  await Bun.write(
    join(directory, adapterConfigFile),
    JSON.stringify({ peft_type: "LORA", r: rank, lora_alpha: alpha, target_modules: targets, bias: "none" }),
  );
  return directory;
}
