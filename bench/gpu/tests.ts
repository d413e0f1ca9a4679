/** The project's own tests of ops, gradients and whole small models, on the device of the bench.
 *  usage: bun bench/gpu/tests.ts [--device cuda] [--files ffi/ops,ffi/gradients] [--seconds 120] [--under COMMAND] [--named STEP]
 *  Files run beside each other, each in a process of its own; one that ends without its counts has failed. */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { put } from "./bench_device.ts";

const files = [
  "ffi/ops",
  "ffi/gradients",
  "ffi/training_ops",
  "ffi/optimizer",
  "ffi/document_attention",
  "ffi/tensor_cores",
  "ffi/invariance",
  "ffi/sample",
  "ffi/contrast",
  "ffi/pack",
  "ffi/errors",
  "ffi/gpu_bits",
  "engine/llama_runner",
  "train/golden",
];
const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda" },
    files: { type: "string", default: files.join(",") },
    seconds: { type: "string", default: "120" },
    /** A command that runs each, and what the table calls that. */
    under: { type: "string", default: "" },
    named: { type: "string", default: "tests" },
  },
});
const root = join(import.meta.dir, "..", "..");
const library = values.device.split(":")[0] as string;
const queue = values.files.split(",");
// Each process has a GPU's context and compiles nothing; more at once gain nothing on one device.
const together = Math.max(1, Math.min(4, availableParallelism() >> 1));
await Promise.all(Array.from({ length: together }, run));

async function run(): Promise<void> {
  for (let file = queue.shift(); file; file = queue.shift()) await testFile(file);
}

async function testFile(file: string): Promise<void> {
  const begin = performance.now();
  const under = values.under.split(" ").filter(Boolean);
  const child = Bun.spawn(
    [...under, process.execPath, "test", "--timeout", "60000", `test/${file}.test.ts`],
    {
      cwd: root,
      env: { ...process.env, KOALA_TEST_LIBRARY: library, KOALA_TEST_INNER: "1" },
      stdout: "ignore",
      stderr: "pipe",
      timeout: Number(values.seconds) * 1000,
      killSignal: "SIGKILL",
    },
  );
  const text = await new Response(child.stderr).text();
  const code = await child.exited;
  const count = (word: string) => Number(new RegExp(`^ *(\\d+) ${word}$`, "m").exec(text)?.[1] ?? NaN);
  const [passed, failed] = [count("pass"), count("fail")];
  const first = /^\(fail\) (.*)$/m.exec(text)?.[1];
  const seconds = `${((performance.now() - begin) / 1000).toFixed(1)} s`;
  put({
    step: values.named,
    what: `${file}, failed tests`,
    // A file that cannot be loaded has no tests that fail, and one that skips all shows nothing.
    value: (code !== 0 && failed === 0) || !(passed > 0) ? NaN : failed,
    unit: "tests",
    bar: { most: 0 },
    note: [`${passed} passed`, seconds, ...(first ? [`first: ${first.slice(0, 120)}`] : [])].join(", "),
  });
  if (code !== 0) console.error(text.slice(-2000));
}
