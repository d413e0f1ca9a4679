/** `koala convert`: a model directory in another element type or shard size. */
import { type Command, InvalidArgumentError } from "commander";
import { convertCheckpoint, type StoredType } from "../model/convert_checkpoint.ts";
import { bytesText, Progress } from "../util/progress.ts";
import { number, resolveModel } from "./model_options.ts";

export function register(program: Command): void {
  program
    .command("convert")
    .description("write a model directory in another element type or shard size")
    .requiredOption("--model <name>", "folder or hub name of the model to read")
    .requiredOption("--out <folder>", "new folder to write")
    .option("--dtype <type>", "element type of the weights: float32 or bfloat16", storedType, "bfloat16")
    .option("--shard-size <gib>", "largest weight file in GiB", number(0.0001, 1024), 5)
    .action(run);
}

async function run(flags: {
  model: string;
  out: string;
  dtype: keyof typeof storedTypes;
  shardSize: number;
}): Promise<void> {
  const source = await resolveModel(flags.model);
  const progress = new Progress("bytes");
  const bytes = await convertCheckpoint(source, flags.out, {
    dtype: storedTypes[flags.dtype],
    shardBytesMax: flags.shardSize * 2 ** 30,
    onProgress: (done, total) => progress.update("converting", done, total),
  });
  console.log(`${flags.out}: ${bytesText(bytes)} of weights written`);
}

const storedTypes = { float32: "F32", bfloat16: "BF16" } as const satisfies Record<string, StoredType>;

function storedType(text: string): keyof typeof storedTypes {
  if (text === "float32" || text === "bfloat16") return text;
  throw new InvalidArgumentError("It must be float32 or bfloat16.");
}
