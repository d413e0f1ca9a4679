/** `koala export`: a model for other programs. */
import { type Command, Option } from "commander";
import { exportGguf, ggufTypes } from "../release/gguf/export.ts";
import type { GgufType } from "../release/gguf/file.ts";
import { koalaJinja } from "../text/koala_template.ts";
import { trainedKoala, trainedTemplate } from "../text/model_record.ts";
import { loadTemplate } from "../text/template.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { bytesText, Progress } from "../util/progress.ts";
import { resolveModel } from "./model_options.ts";

export function register(program: Command): void {
  program
    .command("export")
    .description(
      "write a model directory as one GGUF file for llama.cpp (Hugging Face layout: koala convert)",
    )
    .requiredOption("--model <name>", "folder or hub name of the model")
    .requiredOption("--out <file>", "the .gguf file to write")
    .addOption(
      new Option("--type <type>", "type of the matrices; vectors stay float32")
        .choices(ggufTypes.map((type) => type.toLowerCase()))
        .default("bf16"),
    )
    .action(run);
}

async function run(flags: { model: string; out: string; type: string }): Promise<void> {
  const model = await resolveModel(flags.model);
  const progress = new Progress("items");
  const { bytes, notes } = await exportGguf({
    model,
    out: flags.out,
    type: flags.type.toUpperCase() as GgufType,
    chatTemplate: await chatTemplate(model),
    onProgress: (done, total) => progress.update("writing tensors", done, total),
  });
  for (const note of notes) process.stderr.write(`koala: ${note}\n`);
  console.log(`${flags.out}: ${bytesText(bytes)} written`);
}

/** What the model was trained with; the Koala format in the Jinja that comes nearest to it. */
async function chatTemplate(model: string): Promise<(prependsSpace: boolean) => string | null> {
  const trained = await trainedTemplate(model);
  if (trained?.startsWith("koala")) {
    const koala = await trainedKoala(model);
    const marker = trained === "koala-negative" ? "negative" : "positive";
    return (prependsSpace) => koalaJinja(prependsSpace, { marker, ...koala });
  }
  const source = (await loadTemplate(model, await loadTokenizer(model)))?.source ?? null;
  return () => source;
}
