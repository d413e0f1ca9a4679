/** `koala eval`: a study's way from its plan to the report on the command line, and what it refuses. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeStudy } from "../../src/eval/study_files.ts";
import { selfCommand } from "../../src/util/self_command.ts";
import { studyFixture } from "../eval/study_fixture.ts";
import { temporaryFolder } from "../support/temporary.ts";

async function koala(...args: string[]): Promise<{ code: number; out: string; error: string }> {
  const child = Bun.spawn(selfCommand("eval", ...args), { stdout: "pipe", stderr: "pipe" });
  const [out, error, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, error };
}

test("simulated votes become a report, and votes are never overwritten", async () => {
  const folder = temporaryFolder("eval");
  await writeStudy(folder, studyFixture());
  const refused = await koala("simulate", folder);
  expect(refused.code).toBe(1);
  expect(refused.error).toContain("votes are never overwritten");
  rmSync(join(folder, "votes.jsonl"));
  expect((await koala("simulate", folder, "--score", "0.75", "--seed", "3")).code).toBe(0);
  const written = await koala("report", folder, "--bootstrap", "200");
  expect(written.code).toBe(0);
  expect(written.out.trim().split("\n").every(existsSync)).toBe(true);
  const results = JSON.parse(readFileSync(join(folder, "report", "results.json"), "utf8"));
  for (const { rate } of results.headline) expect(rate.scoreInterval[0]).toBeGreaterThan(0.5);
  const wrong = await koala("report", folder, "--criterion", "beauty");
  expect(wrong.error).toBe("koala: No vote has the criterion beauty; --criterion may be overall.\n");
});

test("power prints what the study design was planned with", async () => {
  const { out } = await koala("power", "--prompts", "360", "--ratings", "3", "--score", "0.551", "--json");
  const { rows } = JSON.parse(out);
  expect(rows.length).toBe(1);
  // The independent simulation says .91 in 200 studies: ±.04.
  expect(Math.abs(rows[0].power - 0.91)).toBeLessThan(0.04);
});

test("what cannot be done is one sentence", async () => {
  const missing = await koala("report", "no-such-folder");
  expect(missing).toMatchObject({ code: 1, error: "koala: There is no folder no-such-folder.\n" });
  const few = await koala("simulate", "--raters", "2", "--ratings", "3");
  expect(few.error).toBe("koala: --ratings 3 needs as many different people, but --raters is 2.\n");
});
