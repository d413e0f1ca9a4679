/** The launcher and the supervisor of the tests, in a small tree of their own: no network, no compiler, no packages. */
import { beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, cpSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { temporaryFolder } from "../support/temporary.ts";

const project = join(import.meta.dir, "..", "..");
const tree = temporaryFolder("launcher");
const tools = temporaryFolder("tools");

for (const file of ["koala", "bunfig.toml", ".ci/run", "test/preload.ts", "test/supervise.ts"]) {
  mkdirSync(dirname(join(tree, file)), { recursive: true });
  cpSync(join(project, file), join(tree, file));
}
for (const name of [
  "sh",
  "bash",
  "cat",
  "dirname",
  "flock",
  "grep",
  "mkdir",
  "mktemp",
  "readlink",
  "rm",
  "sort",
  "tail",
  "tee",
  "touch",
  "uname",
]) {
  const path = Bun.which(name);
  if (path !== null) symlinkSync(path, join(tools, name));
}
put("package.json", "{}\n");
put(
  "tsconfig.json",
  '{ "compilerOptions": { "strict": true, "noEmit": true, "types": [] }, "include": ["src"] }\n',
);
put("ffi/build.ts", "/** Nothing to build. */\n");
put("node_modules/.koala-stamp", "");
put("node_modules/.bin/oxlint", "");

beforeEach(() => {
  for (const folder of ["src", "test/cases"]) rmSync(join(tree, folder), { recursive: true, force: true });
  put(
    "src/cli/main.ts",
    "// @ts-nocheck\nconsole.log(JSON.stringify([process.argv.slice(2), process.cwd()]));\n",
  );
  put("test/cases/sound.test.ts", cases("test('sound', () => {});"));
});

function put(file: string, text: string): void {
  mkdirSync(dirname(join(tree, file)), { recursive: true });
  writeFileSync(join(tree, file), text);
}

/** A test file as `bun fmt` likes it, whatever is in it. */
const cases = (code: string): string => `import { test } from "bun:test";\n// prettier-ignore\n{ ${code} }\n`;

interface Ending {
  last: string;
  code: number;
  output: string;
}

function run(command: string[], options: { bun?: string | null; path?: string; cwd?: string } = {}): Ending {
  const bun = options.bun === null ? {} : { KOALA_BUN: options.bun ?? process.execPath };
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, {
    cwd: options.cwd ?? tree,
    env: { HOME: join(tree, "home"), PATH: options.path ?? tools, ...bun },
  });
  const last = stdout.toString().trimEnd().split("\n").at(-1)!;
  return { last, code: exitCode, output: `${stderr}${stdout}` };
}

describe("./koala test", () => {
  test("ends with the counts of bun test", () => {
    put("test/cases/more.test.ts", cases("test.skip('a', () => {}); test.todo('b'); test('c', () => {});"));
    const { last, code } = run(["./koala", "test"]);
    expect([last, code]).toEqual(["2 passed, 0 failed, 2 skipped", 0]);
  });

  test("and a bare bun test end alike", () => {
    for (const command of [
      ["./koala", "test", "cases/sound"],
      [process.execPath, "test", "cases/sound"],
      [".ci/run", "cases/sound"],
    ]) {
      const { last, code } = run(command);
      expect([last, code]).toEqual(["1 passed, 0 failed", 0]);
    }
    expect(run([process.execPath, "test", "-t", "sound"]).last).toBe("1 passed, 0 failed");
  });

  const failures: [name: string, code: string, last: string | RegExp][] = [
    ["a test that fails", "test('x', () => { throw new Error('x'); });", "1 passed, 1 failed"],
    ["process.exit(0) in a test", "test('x', () => process.exit(0));", /^\d passed, 1 failed$/],
    ["a crash", "test('x', () => { process.kill(process.pid, 'SIGSEGV'); });", /^\d passed, \d failed$/],
    ["an import that fails", "await import('./nowhere.js');", "1 passed, 1 failed"],
    ["a test that never ends in time", "test('x', () => new Promise(() => {}), 10);", "1 passed, 1 failed"],
    [
      "a forged report before process.exit(0)",
      "test('x', () => { console.error(' 9 pass\\n 0 fail\\nRan 9 tests across 1 file. [1ms]'); process.exit(0); });",
      /^\d passed, 1 failed$/,
    ],
  ];
  for (const [name, code, last] of failures) {
    test(`counts ${name} as a failure`, () => {
      put("test/cases/failing.test.ts", cases(code));
      const ending = run(["./koala", "test"]);
      expect(ending.last).toMatch(last);
      expect(ending.last).not.toContain(" 0 failed");
      expect(ending.code).not.toBe(0);
    });
  }

  test("counts types, format and lint that fail", () => {
    put("src/types.ts", 'export const x: number = "a";\n');
    put("src/format.ts", "export   const y = 1\n");
    put("node_modules/.bin/oxlint", "process.exit(1);\n");
    const { last, code, output } = run(["./koala", "test"]);
    put("node_modules/.bin/oxlint", "");
    expect([last, code]).toEqual(["1 passed, 3 failed", 1]);
    expect(output).toContain("src/types.ts");
    expect(output).toContain("src/format.ts");
  });

  test("does not wait for a process that a test left behind", () => {
    put(
      "test/cases/leaking.test.ts",
      cases("test('x', () => { Bun.spawn(['sleep', '20'], { stderr: 'inherit' }).unref(); });"),
    );
    const start = performance.now();
    const { last } = run(["./koala", "test", "leaking"], { path: process.env.PATH });
    expect(last).toBe("1 passed, 0 failed");
    expect(performance.now() - start).toBeLessThan(15_000);
  });
});

describe("./koala", () => {
  test("hands every other verb to the program, in the folder where it was called", () => {
    const link = join(tools, "koala-link");
    symlinkSync(join(tree, "koala"), link);
    for (const command of [join(tree, "koala"), link]) {
      const { last } = run([command, "serve", "--model", "a b"], { cwd: tools });
      expect(JSON.parse(last)).toEqual([["serve", "--model", "a b"], tools]);
    }
  });

  test("becomes the program, so that signals reach it", async () => {
    put(
      "src/cli/main.ts",
      "process.on('SIGTERM', () => process.exit(7));\nsetInterval(() => {}, 1000);\nconsole.log('up', process.pid);\n",
    );
    const child = Bun.spawn(["./koala", "serve"], {
      cwd: tree,
      env: { PATH: tools, KOALA_BUN: process.execPath },
      stderr: "inherit",
    });
    const { value } = await child.stdout.getReader().read();
    expect(new TextDecoder().decode(value)).toBe(`up ${child.pid}\n`);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(7);
  });

  test("says in one sentence that there is neither bun nor npm", () => {
    const { output, code } = run(["./koala", "serve"], { bun: null });
    expect(output).toMatch(/^koala: neither bun 1\.4\.5 nor npm is on the PATH: install one of them .*\n$/);
    expect(code).toBe(1);
  });

  test("does not take a Bun that is too old, and takes a newer one", () => {
    const folder = temporaryFolder("old-bun");
    for (const [version, taken] of [
      ["1.3.11", false],
      ["1.4.4", false],
      ["1.4.10", true],
      ["1.10.0", true],
      ["2.0.0", true],
    ] as const) {
      const bun = join(folder, `bun-${version}`);
      writeFileSync(
        bun,
        `#!/bin/sh\n[ "$1" != --version ] || { echo ${version}; exit; }\n[ "$1" = ffi/build.ts ] || echo "taken $1"\n`,
      );
      chmodSync(bun, 0o755);
      expect(run(["./koala", "serve"], { bun }).output.includes("taken")).toBe(taken);
    }
  });

  test("stops where the native library cannot be built, and .ci/run still ends with the counts", () => {
    put("ffi/build.ts", 'console.error("There is no compiler.");\nprocess.exit(1);\n');
    expect(run(["./koala", "serve"]).output).toMatch(
      /There is no compiler\.\nkoala: the native library could not be built/,
    );
    const { last, code } = run([".ci/run"]);
    put("ffi/build.ts", "/** Nothing to build. */\n");
    expect([last, code]).toEqual(["0 passed, 1 failed", 1]);
  });
});
