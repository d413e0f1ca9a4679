/** One training run on one rank and on several: the models must be equal, bit for bit, in float32 with ZeRO stage 2.
 *  usage: bun bench/gpu/ranks.ts [--ranks 2,8] [--steps 3] [--device cuda]
 *  It runs `koala train` as users do, on the built-in model and a few invented dialogues. Without --device it trains on the CPU. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { selfCommand } from "../../src/util/self_command.ts";
import { put } from "./bench_device.ts";

const { values } = parseArgs({
  options: {
    ranks: { type: "string", default: "2,8" },
    steps: { type: "string", default: "3" },
    device: { type: "string" },
  },
});
const folder = mkdtempSync(join(tmpdir(), "koala-ranks-"));
try {
  await main();
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function main(): Promise<void> {
  const device = values.device === undefined || values.device === "cpu" ? [] : ["--device", values.device];
  if (device.length > 0 && !(await koala(["train", "--help"])).includes("--device")) {
    put({ step: "ranks", skipped: "koala train has no --device yet" });
    return;
  }
  const [single, ...worlds] = [1, ...values.ranks.split(",").map(Number)];
  const recipe = await writeRecipe(Math.max(...worlds));
  const expected = await train(recipe, single as number, device);
  for (const world of worlds) {
    const begin = performance.now();
    const model = await train(recipe, world, device);
    put({
      step: "ranks",
      what: `${world} ranks, bytes of the model that differ from one rank's`,
      value: differing(model, expected),
      unit: "bytes",
      bar: { most: 0 },
      note: `${values.steps} steps in ${((performance.now() - begin) / 1000).toFixed(1)} s with the start`,
    });
  }
}

async function writeRecipe(rows: number): Promise<string> {
  const lines = Array.from({ length: 200 }, (_, i) => ({
    messages: [
      { role: "user", content: `What is ${i} plus ${(i * 7) % 13}?` },
      { role: "assistant", content: `It is ${i + ((i * 7) % 13)}, which is ${i} and ${(i * 7) % 13} more.` },
    ],
  }));
  const data = join(folder, "train.jsonl");
  await Bun.write(data, lines.map((line) => JSON.stringify(line)).join("\n"));
  const model = join(import.meta.dir, "..", "..", "models", "koala-tiny");
  const recipe = join(folder, "recipe.toml");
  const text = `precision = "float32"\nexport_dtype = "float32"\nzero = 2\nsequence_length = 64\nrows_per_step = ${rows}\nsteps = ${values.steps}\n\
[model]\npath = "${model}"\n[data]\nfiles = ["${data}"]\ntemplate = "koala"\n[schedule]\nlearning_rate = 0.001\n`;
  await Bun.write(recipe, text);
  return recipe;
}

/** The weights that a run of so many ranks makes. */
async function train(recipe: string, ranks: number, device: string[]): Promise<Uint8Array> {
  const output = join(folder, `ranks${ranks}`);
  await koala(["train", recipe, "--ranks", String(ranks), "--set", `output=${output}`, ...device]);
  return Bun.file(join(output, "model", "model.safetensors")).bytes();
}

async function koala(args: string[]): Promise<string> {
  const child = Bun.spawn(selfCommand(...args), { stdout: "pipe", stderr: "pipe" });
  const [out, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) !== 0) throw new Error(`koala ${args[0]} failed: ${errors.trim().slice(-400)}`);
  return out;
}

function differing(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return Math.max(a.length, b.length);
  let count = 0;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) count++;
  return count;
}
