import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { selfCommand } from "../../src/util/self_command.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("stopped");

test("a training that SIGTERM stops ends with 143 after its checkpoint, and --resume goes on to the end with 0", async () => {
  const dialogue = [
    { role: "user", content: "What does a koala eat?" },
    { role: "assistant", content: "Leaves of the eucalyptus, and little else." },
  ];
  const lines = Array.from({ length: 64 }, () => JSON.stringify({ messages: dialogue }));
  await Bun.write(join(folder, "train.jsonl"), lines.join("\n"));
  const model = join(import.meta.dir, "..", "..", "models", "koala-tiny");
  const recipe = join(folder, "recipe.toml");
  const text = `output = "${join(folder, "run")}"\nsequence_length = 64\nrows_per_step = 2\nsteps = 400\n
    [model]\npath = "${model}"\n[data]\nfiles = ["${join(folder, "train.jsonl")}"]\ntemplate = "koala"\n`;
  await Bun.write(recipe, text);
  const start = (...args: string[]) =>
    Bun.spawn(selfCommand("train", recipe, ...args), { stdout: "ignore", stderr: "pipe" });

  const first = start();
  let words = "";
  for await (const chunk of first.stderr.pipeThrough(new TextDecoderStream())) {
    words += chunk;
    if (words.includes("training: 400 steps")) first.kill("SIGTERM");
  }
  expect(await first.exited).toBe(143);
  const [, directory = "", step] = /checkpoint: (\S+step-(\d+))/.exec(words)!;
  expect(existsSync(directory)).toBe(true);

  // Few steps more are enough to see that it goes on.
  const stopped = Number(step);
  const again = start("--resume", "--set", `steps=${stopped + 2}`);
  const said = await new Response(again.stderr).text();
  expect([await again.exited, said]).toEqual([0, expect.stringContaining(`resumed at step ${stopped}`)]);
}, 60_000);
