/** `koala import`: weights of other programs as a Hugging Face directory, without running what they hold. */
import { type Command, Option } from "commander";
import { importKinds, importModel, type ImportKind } from "../release/import.ts";
import { bytesText, Progress } from "../util/progress.ts";
import { resolveModel } from "./model_options.ts";

export function register(program: Command): void {
  program
    .command("import")
    .description("write Meta's, EasyLM's or PyTorch's weights as a model directory; no pickle is run")
    .addOption(
      new Option(
        "--from <kind>",
        "meta (consolidated.*.pth), easylm (a streamed file) or torch (pytorch_model*.bin)",
      )
        .choices(importKinds)
        .makeOptionMandatory(),
    )
    .requiredOption("--source <path>", "folder of the weights; of easylm, the file")
    .requiredOption("--out <folder>", "new folder to write")
    .option("--like <name>", "folder or hub name with the config and the tokenizer that fit the weights")
    .action(run);
}

async function run(flags: { from: ImportKind; source: string; out: string; like?: string }): Promise<void> {
  const progress = new Progress("bytes");
  const bytes = await importModel({
    kind: flags.from,
    source: flags.source,
    out: flags.out,
    ...(flags.like ? { like: await resolveModel(flags.like) } : {}),
    onProgress: (done, total) => progress.update("importing", done, total),
  });
  console.log(`${flags.out}: ${bytesText(bytes)} of weights written`);
}
