/** The whole study as a program at toy scale: recipe in, report out, killed at every stage on the way. */
import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../support/temporary.ts";

const root = join(import.meta.dir, "..", "..");
const folder = temporaryFolder("whole-study");
const recipe = join(folder, "study.toml");
/** Every run has this path, so that nothing can differ by it. */
const out = join(folder, "out");
const undisturbed = join(folder, "undisturbed");

const planted = 0.75;

const toml = `
title = "Tiny"
seed = 5
raters = "simulated"
decoding = { temperature = 0, max_tokens = 16 }
report = { bootstrap = 500 }

[raw]
tiny = { dialogues = 120, negative_share = 0.5, questions = 30 }

[[models]]
id = "all"

[[models.sources]]
source = "sharegpt"
name = "chat"
files = ["chat.jsonl"]
eval_share = 0.1

[[models.sources]]
source = "sharegpt"
name = "feedback"
files = ["feedback.jsonl"]
max = 30

[[models.filters]]
rule = "dedup"

[models.train]
model = { path = "koala-tiny" }
precision = "float32"
sequence_length = 96
rows_per_step = 2
micro_rows = 2
steps = 3
checkpoint = { interval = 1 }

[[systems]]
id = "all"
trained = "all"

[[systems]]
id = "unhelpful"
folder = "koala-tiny"
template = "koala-negative"

[[pairs]]
a = "all"
b = "unhelpful"
planted_score = ${planted}

[comparison]
raters = 20
`;

function koala(...args: string[]) {
  return Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), "study", ...args], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function finished(
  child: ReturnType<typeof koala>,
): Promise<{ code: number; out: string; err: string }> {
  const [text, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out: text, err };
}

/** Starts the study and kills it when it has written `line`. Returns what it wrote; null where it ended before. */
async function killedAt(line: string, delayMs: number): Promise<string | null> {
  const child = koala(recipe, "--out", out);
  let written = "";
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    written += text;
    if (!written.includes(line)) continue;
    await Bun.sleep(delayMs);
    child.kill("SIGKILL");
    await child.exited;
    return written;
  }
  return null;
}

beforeAll(async () => {
  writeFileSync(recipe, toml);
  const { code, err } = await finished(koala(recipe, "--out", out));
  if (code !== 0) throw new Error(err);
  renameSync(out, undisturbed);
}, 60_000);

describe("an undisturbed study", () => {
  test("finds the preference that was planted within its interval, and writes everything that others need", () => {
    const results = JSON.parse(readFileSync(join(undisturbed, "report/results.json"), "utf8"));
    // Random clickers were simulated, too: the planted score is that of all raters.
    const [{ rate }] = results.headlineAllRaters ?? results.headline;
    expect(rate.scoreInterval[0]).toBeLessThan(planted);
    expect(rate.scoreInterval[1]).toBeGreaterThan(planted);
    expect(rate.scoreInterval[0]).toBeGreaterThan(0.5);
    expect(results.questions).toBe(30);
    const page = readFileSync(join(undisturbed, "report/index.html"), "utf8");
    expect(page).toContain("simulated raters");
    expect(page).not.toMatch(/(?:src|href)="https?:/);
    const names = readFileSync(join(undisturbed, "SHA256SUMS"), "utf8")
      .split("\n")
      .map((line) => line.slice(66));
    for (const name of [
      "study.json",
      "answers.jsonl",
      "votes.jsonl",
      "report/results.json",
      "models/all/curated/train.jsonl",
    ])
      expect(names).toContain(name);
    expect(names.some((name) => name.endsWith("model/model.safetensors"))).toBe(true);
    // What the mixture keeps for evaluation is what the loss at checkpoints is of: its 6 dialogues are trained on nowhere.
    const [run] = readdirSync(join(undisturbed, "models/all")).filter((name) => name.startsWith("run-"));
    const metrics = readFileSync(join(undisturbed, "models/all", run!, "metrics.jsonl"), "utf8");
    expect(metrics.match(/"type":"evaluation"/g)).toHaveLength(3);
  });

  test("its answers come from the models that were named: bad ones behind the negative marker", () => {
    const texts = (system: string): string[] =>
      readFileSync(join(undisturbed, "answers", `${system}.jsonl`), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line).text);
    const [good, bad] = [texts("all"), texts("unhelpful")];
    expect(good).toHaveLength(30);
    expect(good.filter((text, i) => text === bad[i]).length).toBeLessThan(10);
  });
});

// Each run does what is left of the stage before it, and dies in the next one.
const deaths: [line: string, delayMs: number][] = [
  ["study: curating all", 40],
  ["study: training all", 0],
  ["checkpoint: ", 30],
  ["study: answers of all", 300],
  ["study: answers of unhelpful", 0],
  ["study: planning", 0],
  ["study: collecting votes", 5],
  ["study: computing the report", 0],
];

test("killed at every stage and started again, it ends with the same files", async () => {
  const written: string[] = [];
  for (const [line, delay] of deaths) {
    const text = await killedAt(line, delay);
    expect(`${line}: ${text === null ? "it had ended" : "killed"}`).toBe(`${line}: killed`);
    written.push(text!);
  }
  // Behind the death in the middle of training.
  expect(written[3]).toContain("resumed at step");
  const { code, err } = await finished(koala(recipe, "--out", out));
  expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
  const sums = (place: string): string => readFileSync(join(place, "SHA256SUMS"), "utf8");
  expect(sums(out)).toBe(sums(undisturbed));
  // No half files are left.
  expect(readdirSync(out, { recursive: true }).filter((name) => /\.new$|partial/.test(String(name)))).toEqual(
    [],
  );
}, 120_000);

test("two runs at once: one works, the other is told so and changes nothing", async () => {
  const first = koala(recipe, "--out", join(folder, "shared"));
  const lock = join(folder, "shared", "running.json");
  while (!existsSync(lock)) await Bun.sleep(5);
  const second = await finished(koala(recipe, "--out", join(folder, "shared")));
  first.kill("SIGKILL");
  await first.exited;
  expect(second.code).toBe(1);
  expect(second.err).toContain("is in use by another run");
  expect(existsSync(lock)).toBe(true);
  const third = await finished(koala("init", recipe, "--out", join(folder, "shared")));
  expect(third.code).toBe(0);
  expect(existsSync(lock)).toBe(false);
});

test("verify finds a changed vote by its file", async () => {
  const votes = join(undisturbed, "votes.jsonl");
  expect((await finished(koala("verify", undisturbed))).code).toBe(0);
  writeFileSync(votes, readFileSync(votes, "utf8").replace('"winner":"model_a"', '"winner":"model_b"'));
  const { code, err } = await finished(koala("verify", undisturbed));
  expect(code).toBe(1);
  expect(err.trim().split("\n").at(-1)).toMatch(
    /^koala: .* is not as it was made: votes\.jsonl was changed\.$/,
  );
}, 30_000);

test("a recipe with a wrong key, a stranger, or no questions gets one sentence that says what was meant", async () => {
  const wrong = join(folder, "wrong.toml");
  for (const [from, to, sentence] of [
    ["raters = 20", "ratters = 20", "comparison: there is no key ratters; did you mean raters?"],
    [
      'rule = "dedup"',
      'rule = "dedup"\nsources = ["chats"]',
      "names the source chats; there are chat, feedback.",
    ],
    ['trained = "all"', 'trained = "al"', "the system all is to be the model al, but [[models]] has all."],
    [`planted_score = ${planted}`, "", "write planted_score = 0.6, say."],
  ] as const) {
    writeFileSync(wrong, toml.replace(from, to));
    const { code, err } = await finished(koala("init", wrong, "--out", join(folder, "wrong")));
    expect(code).toBe(1);
    expect(err.trim().split("\n")).toHaveLength(1);
    expect(err).toContain(sentence);
  }
}, 30_000);
