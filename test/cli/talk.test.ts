import { beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { temporaryFolder } from "../support/temporary.ts";
import { makeTinyModel } from "../support/tiny_model.ts";

const program = join(import.meta.dir, "..", "..", "src/cli/main.ts");
const folder = temporaryFolder("talk");
const model = join(folder, "model");

beforeAll(async () => {
  await makeTinyModel(model, { maxPositions: 4096 });
});

async function koala(args: string[], input: string): Promise<{ code: number; out: string; err: string }> {
  const child = Bun.spawn([process.execPath, program, ...args, "--threads", "1", "--cache-memory", "0.1"], {
    stdin: new Blob([input]),
    stdout: "pipe",
    stderr: "pipe",
    timeout: 10_000,
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, out, err: err.replace(/^loading weights .*\n/, "") };
}

const greedy = ["--temperature", "0", "--max-tokens", "6"];

describe("koala chat, piped", () => {
  test("answers every line, the last one without a newline too, and puts nothing but answers on stdout", async () => {
    const [once, twice] = await Promise.all([
      koala(["chat", model, ...greedy], "Hello"),
      koala(["chat", model, ...greedy], "Hello\n/reset\n\nHello\n/exit\nnever read\n"),
    ]);
    expect(once).toEqual({ code: 0, out: expect.stringMatching(/^.+\n$/s), err: "" });
    expect(twice).toEqual({ code: 0, out: once.out + once.out, err: "" });
  });

  test("remembers the conversation, and /retry answers the last question again", async () => {
    const { out } = await koala(["chat", model, ...greedy], "Hello\n/retry\nHello\n");
    const { out: once } = await koala(["chat", model, ...greedy], "Hello\n");
    expect(out.slice(0, 2 * once.length)).toBe(once + once);
    // The second "Hello" stands behind the first and its answer, so the model reads another prompt.
    expect(out.slice(2 * once.length)).not.toBe(once);
  });

  test("an answer that cannot be given ends it with one sentence and exit code 1", async () => {
    const bare = await makeTinyModel(join(folder, "bare"), { chatTemplate: null });
    const { code, out, err } = await koala(["chat", bare], "Hello\nHello\n");
    expect({ code, out }).toEqual({ code: 1, out: "" });
    expect(err).toMatch(/^koala: .*no chat template.*--chat-template.*\n$/);
  });
});

describe("koala generate", () => {
  test("takes its prompt from --prompt or from stdin, and prints the answer alone", async () => {
    const [flag, piped] = await Promise.all([
      koala(["generate", "--model", model, ...greedy, "--prompt", "Once"], ""),
      koala(["generate", "--model", model, ...greedy], "Once"),
    ]);
    expect(flag).toEqual({ code: 0, out: expect.stringMatching(/^.+\n$/s), err: "" });
    expect(piped).toEqual(flag);
  });

  test("ends when its reader has left", async () => {
    const long = ["--max-tokens", "4000", "--temperature", "1", "--seed", "1"];
    const line = [process.execPath, program, "generate", "--model", model, "--prompt", "x", ...long];
    const shell = Bun.spawn(
      ["bash", "-c", 'set -o pipefail; "$@" | head -c 20 >/dev/null', "bash", ...line],
      {
        stdout: "pipe",
        stderr: "pipe",
        timeout: 10_000,
      },
    );
    expect(await shell.exited).toBe(0);
  });
});
