import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { paintDocument } from "../../src/data/preview.ts";
import { openDataset } from "../../src/data/shard.ts";
import { koalaSegments } from "../../src/text/koala_template.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { llama, llamaFolder } from "./models.ts";

const messages = [
  { role: "user", content: "Hello!" },
  { role: "assistant", content: "Hi!" },
];
const segments = koalaSegments(llama, messages, { addGenerationPrompt: false });

describe("a painted document", () => {
  test("without colour marks trained tokens with brackets, one line a segment", () => {
    const lines = paintDocument(segments, llama, false).split("\n");
    expect(lines).toHaveLength(segments.length + 1);
    expect(lines.map((line) => line.includes("⟦"))).toEqual([false, false, true, true, false]);
    const shown = lines.slice(0, -1).map((line) => line.slice(29).replace(/[|⟦⟧]/g, ""));
    expect(shown.join("").trim()).toBe("<s> BEGINNING OF CONVERSATION: USER: Hello! GPT: Hi!</s>");
  });

  test("with colour paints trained tokens alone on a ground", () => {
    const lines = paintDocument(segments, llama, true).split("\n");
    expect(lines.map((line) => line.includes("\x1b[30;42m"))).toEqual([false, false, true, true, false]);
  });

  test("cannot write to the terminal, whatever the data holds", () => {
    const nasty = koalaSegments(llama, [{ role: "user", content: "\x1b[2Jx\u202e\r" }]);
    const text = paintDocument(nasty, llama, false);
    expect(text.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  });
});

describe("koala data", async () => {
  const folder = temporaryFolder("data-cli");
  const model = await llamaFolder();
  const file = join(folder, "chat.jsonl");
  await Bun.write(
    file,
    `${JSON.stringify({ messages })}\n${JSON.stringify({ messages: messages.slice(0, 1) })}\n`,
  );
  const main = join(import.meta.dir, "../../src/cli/main.ts");

  async function koala(...args: string[]): Promise<{ code: number; out: string; err: string }> {
    const child = Bun.spawn([process.execPath, main, "data", ...args, "--model", model], {
      stdout: "pipe",
      stderr: "pipe",
    });
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, out, err };
  }

  test("check prints the report and exits with 1 when the data is refused", async () => {
    const { code, out, err } = await koala("check", file, "--template", "koala");
    expect(code).toBe(1);
    expect(out).toContain("2 (1 ok, 0 repaired, 1 dropped)");
    expect(out).toContain("REFUSED dropped x 1");
    expect(err).toContain("chat.jsonl line 2: the conversation has no answer");
  });

  test("check exits with 0 when what is wrong is allowed; the report can be JSON", async () => {
    const { code, out } = await koala("check", file, "--template", "koala", "--allow", "dropped", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ records: 2, documents: 1, refused: false });
  });

  test("prepare writes a data set and names its folder, once", async () => {
    const args = [
      "prepare",
      file,
      "--template",
      "koala",
      "--allow",
      "dropped",
      "--out",
      join(folder, "sets"),
    ];
    const first = (await koala(...args)).out.trim().split("\n").at(-1)!;
    expect(openDataset(first).documents).toBe(1);
    expect((await koala(...args)).out).toEndWith(`${first} (it was there already)\n`);
  });

  test("preview shows the tokens of each record and why one is dropped", async () => {
    const { code, out } = await koala("preview", file, "--template", "koala");
    expect(code).toBe(0);
    expect(out).toContain("chat.jsonl line 1\n");
    expect(out).toContain(paintDocument(segments, llama, false));
    expect(out).toContain("chat.jsonl line 2: dropped, the conversation has no answer");
  });
});
