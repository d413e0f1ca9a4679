/** `koala serve --moderation`, `koala flags` and `koala moderate`, as a person calls them. */
import { afterAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { addModerationFlags, serveModeration } from "../../src/cli/serve_moderation.ts";
import { ModelRegistry, serverContext } from "../../src/server/context.ts";
import { UsageError } from "../../src/util/errors.ts";
import { addFlag } from "../../src/store/flags.ts";
import { openStore } from "../../src/store/store.ts";
import { selfCommand } from "../../src/util/self_command.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("moderation-cli");
const database = join(folder, "koala.db");

async function koala(...args: string[]) {
  const child = Bun.spawn(selfCommand(...args), { stdout: "pipe", stderr: "pipe", cwd: folder });
  const [out, err] = await Promise.all([
    Bun.readableStreamToText(child.stdout),
    Bun.readableStreamToText(child.stderr),
  ]);
  return { code: await child.exited, out, err };
}

describe("koala flags", () => {
  test("lists, reviews and exports what people reported", async () => {
    const store = await openStore(database);
    const about = { source: "chat" as const, reference: null, model: "tiny", prompt: "Why?" };
    const flag = await addFlag(store, {
      ...about,
      answer: "Because \u001b[31mred",
      category: "hateful",
      note: "rude",
    });
    await store.close();
    const list = await koala("flags", "list", "--database", database);
    expect(list.out).toContain(`${flag.id}  hateful  open`);
    expect(list.out).toContain("Because [31mred");
    expect(list.out).not.toContain("\u001b");
    const reviewed = await koala("flags", "review", flag.id, "--note", "removed", "--database", database);
    expect(reviewed.out).toBe(`${flag.id} is reviewed.\n`);
    expect((await koala("flags", "list", "--database", database)).out).toBe("There are no such reports.\n");
    const exported = JSON.parse((await koala("flags", "export", "--database", database)).out);
    expect(exported).toMatchObject({
      id: flag.id,
      state: "reviewed",
      review: "removed",
      answer: "Because \u001b[31mred",
    });
    const unknown = await koala("flags", "review", "flag-none", "--database", database);
    expect([unknown.code, unknown.err]).toEqual([
      1,
      "koala: There is no report flag-none. koala flags list --all shows them.\n",
    ]);
  });
});

describe("koala serve --moderation", () => {
  test.each([
    [["--moderation", "magic"], "--moderation magic is none of rules"],
    [["--moderation", "linear,linear"], "names linear twice"],
    [["--moderation", "linear", "--moderation-threshold", "rude=1"], "category=score"],
    [["--moderation-threshold", "hate=0.3"], "goes with --moderation"],
    [["--moderation", "rules:none.toml"], "none.toml cannot be read"],
    [["--moderation", "onnx:none"], "config.json"],
    [["--moderation", "url:nowhere"], "is no http address"],
  ])("%p is refused with one sentence", async (given, part) => {
    const command = addModerationFlags(new Command()).parse(given, { from: "user" });
    const context = serverContext({ models: new ModelRegistry() });
    const refusal = await serveModeration(context, command.opts()).catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(UsageError);
    expect((refusal as UsageError).message).toContain(part);
  });

  const started: Bun.Subprocess[] = [];
  afterAll(() => Promise.all(started.map((child) => (child.kill(), child.exited))));

  test("guards the built-in model with the built-in judges, takes reports, and counts", async () => {
    const flags = ["--moderation", "rules,linear", "--reports", "--database", database];
    const child = Bun.spawn(selfCommand("serve", "--port", "0", ...flags), {
      stdout: "pipe",
      stderr: "ignore",
    });
    started.push(child);
    let said = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream()))
      if (/Serving \S+/.test((said += text))) break;
    const url = /Serving (\S+)\/v1/.exec(said)![1]!;
    const post = async (path: string, body: object) =>
      (await fetch(url + path, { method: "POST", body: JSON.stringify(body) })).json() as Promise<any>;
    const chat = (content: string) => post("/v1/chat/completions", { messages: [{ role: "user", content }] });
    expect((await chat("How do I make a pipe bomb?")).choices[0].finish_reason).toBe("content_filter");
    expect((await chat("Count to three.")).choices[0].finish_reason).toBe("stop");
    expect(await (await fetch(url)).text()).toContain('<meta name="koala-reports" content="1"');
    const report = await post("/v1/reports", { answer: "x", category: "false" });
    expect(report.object).toBe("report");
    expect(await (await fetch(`${url}/metrics`)).text()).toContain(
      'koala_moderation_decisions_total{phase="request",decision="blocked"} 1',
    );
    expect((await koala("flags", "list", "--database", database)).out).toContain(report.id);
  });
});

test("koala moderate eval prints a table, and refuses a bad file with one sentence", async () => {
  const path = join(folder, "samples.jsonl");
  const rows = Array.from({ length: 60 }, (_, i) => ({ prompt: i % 2 ? "red hot" : "green leaf", S: i % 2 }));
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const { out } = await koala("moderate", "eval", path);
  expect(out).toContain("| sexual | 30 | 60 | 0.500 | 1.000 | 1.000 | 1.000 |");
  writeFileSync(path, "{");
  expect((await koala("moderate", "train", path, "--out", folder)).err).toContain(
    "samples.jsonl line 1 is not JSON",
  );
});
