/** The file of choices among algorithms, written by several processes at once. */
import { beforeAll, expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../support/temporary.ts";

const dir = temporaryFolder("gemm-cache");
const compiler = process.env.CXX || "g++";
const skipped = Boolean(process.env.KOALA_TEST_LIBRARY) || !Bun.which(compiler);
const program = join(dir, "rank");
const name = "A--GPU--90-s-sm90-130100.txt";

beforeAll(() => {
  if (skipped) return;
  const source = join(import.meta.dir, "gemm_cache_rank.cc");
  const flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-x", "c++"];
  const made = Bun.spawnSync([compiler, ...flags, source, "-o", program]);
  if (made.exitCode !== 0) throw new Error(made.stderr.toString());
});

/** What the choices of a rank become that would take `word` for each of `count` products. */
async function rank(folder: string, count: number, word: number): Promise<number[]> {
  const env = { ...process.env, KOALA_GEMM_CACHE: folder };
  const child = Bun.spawn([program, String(count), String(word)], { env });
  const text = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return text.trim().split(" ").map(Number);
}

const lines = (folder: string): string[] => readFileSync(join(folder, name), "utf8").split("\n").slice(1, -1);

test.skipIf(skipped)(
  "the first choice of a product stands, and later ones give way to it (g++ only)",
  async () => {
    const folder = join(dir, "first");
    expect(await rank(folder, 2, 7)).toEqual([7, 7]);
    expect(await rank(folder, 3, 8)).toEqual([7, 7, 8]);
    expect(lines(folder)).toHaveLength(3);
  },
);

test.skipIf(skipped)("ranks that write at once lose nothing and agree (g++ only)", async () => {
  const folder = join(dir, "ranks");
  const count = 60;
  const choices = await Promise.all([1, 2, 3, 4].map((word) => rank(folder, count, word)));
  for (const other of choices) expect(other).toEqual(choices[0]!);
  expect(lines(folder)).toHaveLength(count);
  expect(readdirSync(folder).sort()).toEqual([name, `${name}.lock`]);
});

test.skipIf(skipped)("a folder that cannot be made leaves each rank its own choice (g++ only)", async () => {
  mkdirSync(join(dir, "file"));
  writeFileSync(join(dir, "file", "taken"), "");
  expect(await rank(join(dir, "file", "taken"), 2, 5)).toEqual([5, 5]);
  expect(await rank("off", 2, 6)).toEqual([6, 6]);
});
