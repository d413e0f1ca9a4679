/** The one executable: alone in an empty folder, with nothing on the PATH and nowhere to write. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { version } from "../../package.json";
import { buildExecutable } from "../../src/cli/build.ts";
import { temporaryFolder } from "../support/temporary.ts";

const root = join(import.meta.dir, "..", "..");
const isBuilt = readdirSafe(join(root, "build")).some((name) => name.startsWith("libkoala_cpu."));
const model = join(root, "..", "shared", "models", "stories260K");
const folder = temporaryFolder("binary");
const executable = join(folder, "koala");
const empty = join(folder, "empty");
const nowhere = join(folder, "nowhere");
const env = { PATH: "", HOME: nowhere, TMPDIR: nowhere, XDG_CACHE_HOME: nowhere };

function readdirSafe(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : [];
}

function run(...args: string[]): { code: number; stdout: string; stderr: string } {
  const child = Bun.spawnSync([executable, ...args], { cwd: empty, env });
  return { code: child.exitCode, stdout: child.stdout.toString(), stderr: child.stderr.toString() };
}

describe.skipIf(!isBuilt)("the executable (skipped until the native library is built)", () => {
  beforeAll(async () => {
    mkdirSync(empty);
    await buildExecutable(executable);
  }, 60_000);

  test("tells its version, with the commit where there is one", () => {
    const { code, stdout } = run("--version");
    expect(code).toBe(0);
    expect(stdout.trim()).toMatch(
      new RegExp(`^${version.replaceAll(".", "\\.")}( \\([0-9a-f]{10}\\+?\\))?$`),
    );
  });

  test("loads its native library and says what the machine can do", () => {
    const { code, stdout, stderr } = run("doctor");
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toContain("one executable");
    expect(stdout).toMatch(/GFLOP\/s/);
  });

  test("does not obey a bunfig.toml where it happens to run", () => {
    const trap = join(folder, "trap");
    mkdirSync(trap);
    writeFileSync(join(trap, "bunfig.toml"), 'preload = ["./preload.ts"]\n');
    writeFileSync(join(trap, "preload.ts"), 'console.log("obeyed");\n');
    const { stdout } = Bun.spawnSync([executable, "--version"], { cwd: trap, env });
    rmSync(trap, { recursive: true });
    expect(stdout.toString()).not.toContain("obeyed");
  });

  test("refuses what it does not know with one sentence", () => {
    const { code, stderr } = run("serve", "--model", nowhere);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^koala: .+\.\n$/);
  });

  describe.skipIf(!existsSync(model))("with a model (skipped where stories260K is not at hand)", () => {
    let server: Bun.Subprocess<"ignore", "pipe", "pipe">;
    let address = "";

    beforeAll(async () => {
      server = Bun.spawn([executable, "serve", "--model", model, "--port", "0"], {
        cwd: empty,
        env,
        stdout: "pipe",
        stderr: "pipe",
      });
      address = await addressOf(server);
      expect((await fetch(`${address}/readyz`)).status).toBe(200);
    }, 20_000);
    afterAll(() => server.kill("SIGKILL"));

    test("completes text", async () => {
      const body = JSON.stringify({
        model: "stories260K",
        prompt: "Once upon a time",
        max_tokens: 12,
        temperature: 0,
      });
      const headers = { "content-type": "application/json" };
      const answer = await fetch(`${address}/v1/completions`, { method: "POST", headers, body });
      const { choices } = (await answer.json()) as { choices: { text: string }[] };
      expect(`Once upon a time${choices[0]!.text}`).toStartWith("Once upon a time, there was a little girl");
    });

    test("has its page inside, with everything the page asks for", async () => {
      const page = await (await fetch(`${address}/`)).text();
      const links = [...page.matchAll(/\b(?:src|href)="([^"]+)"/g)]
        .map(([, link]) => link!)
        .filter((link) => !link.startsWith("data:"));
      expect(links.length).toBeGreaterThan(0);
      for (const link of links) {
        const target = new URL(link, `${address}/`);
        expect(target.origin).toBe(address);
        expect((await fetch(target)).status).toBe(200);
      }
    });

    test("stops on SIGTERM and leaves nothing behind", async () => {
      server.kill("SIGTERM");
      expect(await server.exited).toBe(0);
      expect(readdirSync(empty)).toEqual([]);
      expect(existsSync(nowhere)).toBe(false);
    });
  });
});

/** Reads what the server prints until it names its address. */
async function addressOf(server: Bun.Subprocess<"ignore", "pipe", "pipe">): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for (const stream of [server.stdout, server.stderr]) {
    void (async () => {
      for await (const chunk of stream) text += decoder.decode(chunk);
    })();
  }
  for (;;) {
    const address = /http:\/\/127\.0\.0\.1:\d+/.exec(text)?.[0];
    if (address !== undefined) return address;
    if (server.exitCode !== null) throw new Error(`the server ended: ${text}`);
    await Bun.sleep(10);
  }
}
