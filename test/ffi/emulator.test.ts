/** The tests of the CPU's library, run on the emulated GPU: ops, gradients, and whole models against PyTorch's figures.
 *
 *  A part of them, in about a minute; all with KOALA_EMULATOR_TESTS=all, or one by one:
 *  KOALA_TEST_LIBRARY=emu ./koala test test/ffi/sample.test.ts (or =cuda, on a machine with a GPU). */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { buildEmulator } from "../../ffi/build_gpu.ts";

const root = join(import.meta.dir, "..", "..");
const everything = process.env.KOALA_EMULATOR_TESTS === "all";
const nested = Boolean(process.env.KOALA_TEST_LIBRARY);
const absent = process.arch !== "x64" ? " (x86-64 only)" : nested ? " (runs within one already)" : "";
const minutes = 60_000;

/** What is run: files, and which of their tests in an ordinary run. */
const groups: Record<string, { files: string[]; ordinary: string }> = {
  "ops equal their formulas": {
    files: ["ffi/ops", "ffi/contrast", "ffi/pack", "ffi/cache_f8"],
    ordinary: "",
  },
  "wrong arguments give sentences": { files: ["ffi/errors"], ordinary: "" },
  "training ops equal their formulas": {
    files: ["ffi/gradients", "ffi/training_ops", "ffi/optimizer", "ffi/document_attention"],
    ordinary: "^gradients|^training|^the optimizer|wrong|alone",
  },
  "rows do not depend on their neighbours": {
    files: ["ffi/invariance", "ffi/tensor_cores"],
    ordinary: "45, 33|48, 64|101 tokens|norms|is the same decoded",
  },
  "tokens are drawn as the formula draws": { files: ["ffi/sample"], ordinary: "V=37|mask|penal|bias" },
  "int8 and int4 weights are the bfloat16 weights that they stand for": {
    files: ["ffi/quantised", "engine/quantised_weights"],
    ordinary: "blocks|NaN|product|llama-mha with|adapter",
  },
  "graphs repeat their ops": { files: ["ffi/graphs", "engine/decode_graphs"], ordinary: "" },
  "models serve as PyTorch does": {
    files: ["engine/llama_runner", "engine/kv_cache_dtype"],
    ordinary: "llama-gqa-rope3|qwen3-qknorm",
  },
  "models train as PyTorch does": { files: ["train/golden"], ordinary: "llama-gqa-rope3" },
  "bfloat16 activations train": { files: ["train/bfloat16"], ordinary: "packed and apart|of LoRA|of heads" },
};

describe.skipIf(absent !== "")(`on an emulated GPU${absent}`, () => {
  for (const [name, { files, ordinary }] of Object.entries(groups))
    test(
      name,
      async () => {
        await buildEmulator({ quiet: true });
        const pattern = everything || ordinary === "" ? [] : ["-t", ordinary];
        const paths = files.map((file) => `test/${file}.test.ts`);
        const child = Bun.spawn([process.execPath, "test", "--timeout", "300000", ...pattern, ...paths], {
          cwd: root,
          env: { ...process.env, KOALA_TEST_LIBRARY: "emu", KOALA_TEST_INNER: "1" },
          stdout: "pipe",
          stderr: "pipe",
        });
        const text = await new Response(child.stderr).text();
        const failed = text.split("\n").filter((line) => /^\(fail\)|^error/.test(line));
        expect({ failed, code: await child.exited, ran: /^ *[1-9]\d* pass$/m.test(text) }).toEqual({
          failed: [],
          code: 0,
          ran: true,
        });
      },
      20 * minutes,
    );
});
