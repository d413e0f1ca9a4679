import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Row } from "../../bench/gpu/bench_device.ts";
import { barTable, type JudgedBar, judgeBars } from "../../bench/gpu/bars.ts";
import { failed, parseLines, type Result, results, table } from "../../bench/gpu/report.ts";
import { buildEmulator } from "../../ffi/build_gpu.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("gpu-bench");
const script = join(import.meta.dir, "..", "..", "bench", "gpu.sh");

interface Document {
  commit: string | null;
  size: string;
  doctor: { name: string }[];
  bars: JudgedBar[];
  results: Result[];
  skipped: { step: string; skipped: string }[];
}

async function gpu(device: string, ...args: string[]) {
  const out = join(folder, `${device}.json`);
  // No peer: Python's packages differ from machine to machine.
  const command = ["sh", script, "--device", device, "--out", out, "--python", "no-python", ...args];
  const child = Bun.spawn(command, {
    env: { ...process.env, KOALA_BUN: process.execPath },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [text, words, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, text, words, document: (await Bun.file(out).json()) as Document };
}

describe("bench/gpu.sh without a GPU", () => {
  // Compiling it is no part of what is tested here.
  beforeAll(() => buildEmulator({ quiet: true }), 300_000);

  for (const device of ["cpu", "emu"])
    test(`runs every step at tiny size on ${device}, and every check holds`, async () => {
      const { code, text, words, document } = await gpu(device);
      expect([code, document.skipped.filter((line) => "failed" in line)]).toEqual([0, []]);
      const steps = new Set(document.results.map(({ step }) => step));
      for (const step of ["ceilings", "ops", "tests", "inference", "training", "ranks", "collectives"])
        expect([...steps]).toContain(step);
      const killed = document.results.filter(({ what }) => what.includes("one killed and all started again"));
      expect(killed.map(({ value }) => value)).toEqual(device === "cpu" ? [0] : []);
      // What no tiny size can say stays open; errors are errors at any size.
      const verdicts = Object.fromEntries(document.bars.map(({ name, verdict }) => [name, verdict]));
      expect(verdicts).toMatchObject({ "ops, float32": "met", "decode, 7B, batch 1": "not run" });
      expect(text).toContain(barTable(document.bars));
      // A run that is killed leaves these.
      expect(parseLines(await Bun.file(join(folder, `${device}.rows.jsonl`)).text()).length).toBe(
        document.results.length + document.skipped.length,
      );
      const errors = document.results.filter(({ unit }) => unit === "rel. L2");
      expect(errors.length).toBeGreaterThan(20);
      for (const { verdict } of errors) expect(verdict).toBe("ok");
      expect(document.doctor.map(({ name }) => name)).toContain("gpu driver");
      expect(document.size).toBe("tiny");
      expect(document.skipped).toContainEqual({
        step: "peers",
        skipped: expect.stringContaining("no-python"),
      });
      expect(text).toContain("skipped: no-python was not found");
      expect(words).toContain("bench/results/");
    }, 60_000);

  test("names every step that time did not allow, and ends with 1", async () => {
    const { code, text, document } = await gpu("cpu", "--minutes", "0");
    expect(code).toBe(1);
    expect(document.results).toEqual([]);
    expect(text).toMatch(/^training +FAILED: the 0 minutes were over$/m);
  });

  /** A bun whose benches of inference break, and whose others do next to nothing. */
  function brokenBun(): string {
    const broken = join(folder, "bun");
    mkdirSync(folder, { recursive: true });
    const stub = `#!/bin/sh\ncase "$1" in
      *report.ts|-e) exec "${process.execPath}" "$@" ;;
      *inference.ts) echo 'error: the "cache" is lost' >&2; exit 3 ;;
      *training.ts) echo '{"step": "training", "what": "x", "value": 1, "unit": "ratio", "bar": {"most": 2}}' ;;
    esac`;
    writeFileSync(broken, stub, { mode: 0o755 });
    return broken;
  }

  test("takes the library that was brought, where nothing shall or can build it, and says which", () => {
    const out = join(folder, "prebuilt.json");
    const args = ["--prebuilt", "--device", "cuda", "--out", out, "--python", "no-python"];
    const run = Bun.spawnSync(["sh", script, ...args], {
      env: { ...process.env, KOALA_BUN: brokenBun() },
      stderr: "ignore",
    });
    const said = existsSync(join(import.meta.dir, "..", "..", "build", "libkoala_cuda.so"))
      ? /^build +skipped: as asked: build\/libkoala_cuda\.so of \S+ \S+ UTC is taken as it came \(sha256 [0-9a-f]{12}\)$/m
      : /^build +FAILED: there is no build\/libkoala_cuda\.so, and nothing builds it \(as asked\)/m;
    expect(run.stdout.toString()).toMatch(said);
    expect(run.exitCode).toBe(1);
  });

  test.each([
    ["--sanitize", /^sanitize +skipped: compute-sanitizer watches GPUs, and cpu is none/m],
    ["--profile", /^profile +skipped: ncu reads the counters of GPUs, and cpu is none/m],
  ])("%s says why it cannot", (flag, reason) => {
    const out = join(folder, `${flag}.json`);
    const run = Bun.spawnSync(["sh", script, flag, "--device", "cpu", "--out", out], {
      env: { ...process.env, KOALA_BUN: brokenBun() },
      stderr: "ignore",
    });
    expect([run.exitCode, run.stdout.toString()]).toEqual([0, expect.stringMatching(reason)]);
  });

  test("names a step that broke with its last words, and goes on", async () => {
    const broken = brokenBun();
    const out = join(folder, "broken.json");
    const run = Bun.spawnSync(["sh", script, "--device", "cpu", "--out", out, "--python", "no-python"], {
      env: { ...process.env, KOALA_BUN: broken },
      stderr: "ignore",
    });
    expect(run.exitCode).toBe(1);
    expect(run.stdout.toString()).toMatch(/^inference +FAILED: ended with 3: error: the cache is lost$/m);
    expect(run.stdout.toString()).toMatch(/^training +x +1 ratio .*ok$/m);
  });
});

describe("the table", () => {
  const row = (what: string, value: number, more: Partial<Row> = {}): Row => ({
    step: "inference",
    what,
    value,
    unit: "tokens/s",
    ...more,
  });

  test("has the mean and the whole range of what ran before and after the peer, beside it", () => {
    const [result] = results([
      row("llama-7b decode x1", 240, { range: [230, 250], limit: 300, bar: { share: 0.8 } }),
      row("llama-7b decode x1", 200, { peer: "transformers" }),
      row("llama-7b decode x1", 260, { range: [255, 265], limit: 320 }),
    ]);
    expect(result).toMatchObject({
      value: 250,
      range: [230, 265],
      limit: 310,
      peerName: "transformers",
      peerValue: 200,
      ratio: 1.25,
    });
    expect(result?.share).toBeCloseTo(250 / 310, 12);
    // 81 % of the limit is enough, 1.25 times the peer is not.
    expect(result?.verdict).toBe("below");
  });

  test("has a line for each peer, and the bar is about the first", () => {
    const lines = [
      row("llama-7b x8, step", 100, { step: "training", limit: 200 }),
      row("llama-7b x8, step", 80, { step: "training", peer: "torch, compiled" }),
      row("llama-7b x8, step", 125, { step: "training", peer: "jax, jit" }),
    ];
    expect(results(lines).map(({ peerName, ratio, verdict }) => [peerName, ratio, verdict])).toEqual([
      ["torch, compiled", 1.25, "ok"],
      ["jax, jit", 0.8, ""],
    ]);
  });

  test("counts an error above its bar, or one that is no number, as failed; a slow test as below", () => {
    const error = (value: number) =>
      parseLines(JSON.stringify(row("matmul, error", value, { unit: "rel. L2", bar: { most: 0.01 } })));
    expect(failed(error(0.01))).toBe(false);
    expect(failed(error(0.011))).toBe(true);
    expect(failed(error(NaN))).toBe(true);
    const slow = [row("decode", 1, { limit: 10, bar: { share: 0.5 } })];
    expect([failed(slow), results(slow)[0]?.verdict]).toEqual([false, "below"]);
    expect(failed([...slow, { step: "training", skipped: "ended with 3", failed: true }])).toBe(true);
    expect(failed([...slow, { step: "peers", skipped: "no torch" }])).toBe(false);
  });

  test("prints skipped steps at its end", () => {
    const text = table([row("decode", 12.5), { step: "peers", skipped: "no torch" }]);
    expect(text.split("\n").map((line) => line.replace(/ +/g, " "))).toEqual([
      "step test value range of limit peer ratio",
      "inference decode 12.5 tokens/s",
      "peers skipped: no torch",
    ]);
  });
});

describe("the bars", () => {
  const decode = (share: number, ratio?: number): Result => ({
    step: "inference",
    what: "llama-7b decode x1",
    value: 1,
    unit: "tokens/s",
    share,
    ...(ratio === undefined ? {} : { ratio, peerName: "transformers 5, compiled" }),
    verdict: "",
  });
  const first = (...results: Result[]) =>
    judgeBars(results).find(({ name }) => name === "decode, 7B, batch 1") as JudgedBar;

  test("are met where all of their tests held, missed where one did not, and else not run", () => {
    expect(first(decode(0.82, 1.4))).toMatchObject({ figure: "82 %; 1.40 x", verdict: "met" });
    expect(first(decode(0.82, 1.2))).toMatchObject({ figure: "82 %; 1.20 x", verdict: "missed" });
    expect(first(decode(0.79))).toMatchObject({ figure: "79 %; not run", verdict: "missed" });
    expect(first(decode(0.9))).toMatchObject({ figure: "90 %; not run", verdict: "not run" });
    expect(first()).toMatchObject({ figure: "", verdict: "not run" });
    expect(first({ ...decode(0.9, 2), peerName: "transformers 5, eager" }).verdict).toBe("not run");
  });

  test("take the worst of many errors, and no number is the worst", () => {
    const error = (value: number): Result => ({
      step: "ops",
      what: "matmul f32, error",
      value,
      unit: "rel. L2",
      verdict: "",
    });
    const judged = (...values: number[]) => judgeBars(values.map(error))[0];
    expect(judged(1e-7, 3e-6)).toMatchObject({ figure: "3.0e-6", verdict: "met" });
    expect(judged(1e-7, 2e-5)?.verdict).toBe("missed");
    expect(judged(NaN, 1e-7)).toMatchObject({ figure: "NaN", verdict: "missed" });
  });
});
