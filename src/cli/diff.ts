/** `koala diff`: what fine-tuning changed, as a release that gives back the exact weights. */
import { type Command, Option } from "commander";
import { applyArithmeticDelta, deltaKinds, type DeltaKind } from "../release/arithmetic.ts";
import { applyDiff, verifyDiff } from "../release/diff_apply.ts";
import { makeDiff } from "../release/diff_make.ts";
import { bytesText, Progress } from "../util/progress.ts";
import { resolveModel } from "./model_options.ts";

export function register(program: Command): void {
  const diff = program
    .command("diff")
    .description("release a tuned model as a bit-exact difference to its base, and get it back");
  diff
    .command("make")
    .description("write the difference between a tuned model and its base, with hashes of both")
    .requiredOption("--base <name>", "folder or hub name of the base model")
    .requiredOption("--tuned <folder>", "folder of the tuned model")
    .requiredOption("--out <folder>", "new folder for the diff")
    .option("--base-name <text>", "how users know the base, for messages (default: its folder's name)")
    .option("--licence <text>", "licence of the diff, written into it")
    .action(make);
  diff
    .command("apply")
    .description(
      "give back the tuned model from its base and the diff; a wrong base is refused before anything is written",
    )
    .requiredOption("--base <name>", "folder or hub name of the base model")
    .requiredOption("--diff <folder>", "folder of the diff; of easylm, the streamed file")
    .addOption(
      new Option(
        "--arithmetic <program>",
        "the diff is one of 2023, which is not exact: FastChat's, Alpaca's or EasyLM's",
      ).choices(deltaKinds),
    )
    .requiredOption("--out <folder>", "new folder for the tuned model")
    .action(apply);
  diff
    .command("verify")
    .description("check base, diff and what comes out against the hashes, and write nothing")
    .requiredOption("--base <name>", "folder or hub name of the base model")
    .requiredOption("--diff <folder>", "folder of the diff")
    .action(verify);
}

async function make(flags: {
  base: string;
  tuned: string;
  out: string;
  baseName?: string;
  licence?: string;
}): Promise<void> {
  const progress = new Progress("bytes");
  const { header, tunedBytes, diffBytes } = await makeDiff({
    base: await resolveModel(flags.base),
    tuned: flags.tuned,
    out: flags.out,
    baseName: flags.baseName ?? flags.base.replace(/\/+$/, "").split("/").slice(-2).join("/"),
    licence: flags.licence ?? null,
    onProgress: (done, total) => progress.update("comparing", done, total),
  });
  const tensors = header.shards.flatMap((shard) => shard.tensors);
  const count = (method: string): number => tensors.filter((tensor) => tensor.method === method).length;
  console.log(
    `${flags.out}: ${bytesText(diffBytes)} for ${bytesText(tunedBytes)} of weights (${((100 * diffBytes) / tunedBytes).toFixed(1)} %); ` +
      `${tensors.length} tensors, ${count("same")} unchanged, ${tensors.filter(({ base }) => base === null).length} that the base has not.`,
  );
}

async function apply(flags: {
  base: string;
  diff: string;
  out: string;
  arithmetic?: DeltaKind;
}): Promise<void> {
  if (flags.arithmetic) return applyArithmetic({ ...flags, kind: flags.arithmetic });
  const progress = new Progress("bytes");
  const bytes = await applyDiff({
    base: await resolveModel(flags.base),
    diff: flags.diff,
    out: flags.out,
    onProgress: (stage, done, total) => progress.update(stage, done, total),
  });
  console.log(`${flags.out}: ${bytesText(bytes)} of weights, every hash right.`);
}

async function applyArithmetic(of: {
  kind: DeltaKind;
  base: string;
  diff: string;
  out: string;
}): Promise<void> {
  const progress = new Progress("items");
  const bytes = await applyArithmeticDelta({
    kind: of.kind,
    base: await resolveModel(of.base),
    delta: of.diff,
    out: of.out,
    onProgress: (done, total) => progress.update("adding tensors", done, total),
  });
  console.log(
    `${of.out}: ${bytesText(bytes)} of weights. Arithmetic deltas carry no hashes, so nothing could be checked.`,
  );
}

async function verify(flags: { base: string; diff: string }): Promise<void> {
  const progress = new Progress("bytes");
  const { header, bytes } = await verifyDiff({
    base: await resolveModel(flags.base),
    diff: flags.diff,
    onProgress: (stage, done, total) => progress.update(stage, done, total),
  });
  console.log(
    `${flags.diff} is whole: with ${flags.base} it gives ${header.shards.length} weight file(s), ${bytesText(bytes)}, every hash right.`,
  );
}
