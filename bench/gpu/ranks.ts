/** One training run on one rank and on several: the models must be equal, bit for bit, in float32 with ZeRO stage 2.
 *  usage: bun bench/gpu/ranks.ts [--ranks 2,8] [--steps 3] [--device cuda] [--through memory|peer|nccl] [--kill]
 *  With --kill one more run of two ranks loses one by SIGKILL in its second step, starts again and must end equal, too.
 *  It runs `koala train` as users do, on the built-in model and a few invented dialogues. Without --device it trains on the CPU. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
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
    /** What carries the collectives; by default koala chooses. */
    through: { type: "string" },
    kill: { type: "boolean", default: false },
  },
});
const through = values.through === undefined ? "" : ` through ${values.through}`;
const folder = mkdtempSync(join(tmpdir(), "koala-ranks-"));
try {
  await main();
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function main(): Promise<void> {
  // "cuda" would ask for a GPU for each rank; these share the first.
  const name = values.device === "cuda" ? "cuda:0" : values.device;
  const device = name === undefined || name === "cpu" ? [] : ["--device", name];
  const [single, ...worlds] = [1, ...values.ranks.split(",").map(Number)];
  const recipe = await writeRecipe(Math.max(...worlds));
  const expected = await train(recipe, single as number, device);
  for (const world of worlds) {
    const begin = performance.now();
    const model = await train(recipe, world, device);
    putDifference(`${world} ranks${through}`, differing(model, expected), begin);
  }
  if (!values.kill) return;
  const begin = performance.now();
  const mark = join(folder, "killed");
  const model = await train(recipe, 2, device, { KOALA_FAULT: `after_reduce:2:1:once=${mark}` });
  if (!existsSync(`${mark}.1`))
    throw new Error("No rank was killed, so that nothing is known of starting again.");
  putDifference(`2 ranks${through}, one killed and all started again`, differing(model, expected), begin);
}

function putDifference(what: string, bytes: number, begin: number): void {
  put({
    step: "ranks",
    what: `${what}, bytes of the model that differ from one rank's`,
    value: bytes,
    unit: "bytes",
    bar: { most: 0 },
    note: `${values.steps} steps in ${((performance.now() - begin) / 1000).toFixed(1)} s with the start`,
  });
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
[model]\npath = "${model}"\n[data]\nfiles = ["${data}"]\ntemplate = "koala"\n[schedule]\nlearning_rate = 0.001\n[checkpoint]\nepochs = false\ninterval = 1\n`;
  await Bun.write(recipe, text);
  return recipe;
}

/** The weights that a run of so many ranks makes. */
async function train(
  recipe: string,
  ranks: number,
  device: string[],
  variables: Record<string, string> = {},
): Promise<Uint8Array> {
  const output = join(folder, `ranks${ranks}${Object.keys(variables).join("")}`);
  const args = ["train", recipe, "--ranks", String(ranks), "--set", `output=${output}`, ...device];
  await koala(args, variables);
  return Bun.file(join(output, "model", "model.safetensors")).bytes();
}

async function koala(args: string[], variables: Record<string, string> = {}): Promise<void> {
  const carried = values.through === undefined ? {} : { KOALA_COMM: values.through };
  const env = { ...process.env, ...carried, ...variables };
  const child = Bun.spawn(selfCommand(...args), { env, stdout: "ignore", stderr: "pipe" });
  const errors = await new Response(child.stderr).text();
  if ((await child.exited) !== 0)
    throw new Error(`koala ${args[0]} failed: ${errors.trim().split("\n").at(-1)}`);
}

function differing(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return Math.max(a.length, b.length);
  let count = 0;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) count++;
  return count;
}
