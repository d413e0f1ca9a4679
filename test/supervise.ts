/** `./koala test`: static checks, then `bun test` in a child process, then one closing line, `N passed, N failed`.
 *  Always: the line counts a failure, and the exit code is not 0, unless the child told how many tests it ran and all
 *  of them are accounted for. `bun test` alone is green after process.exit(0) in a test and silent after a crash. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
/** Named, because oxlint follows .gitignore only inside a git repository. */
const sourceFolders = ["src", "test", "bench", "ffi", "stubs"].filter((folder) =>
  existsSync(join(root, folder)),
);
async function main(): Promise<number> {
  const failedChecks = await runStaticChecks();
  const tests = await runTests(process.argv.slice(2));
  const failed = failedChecks + tests.failed;
  console.log(
    `${tests.passed} passed, ${failed} failed${tests.skipped > 0 ? `, ${tests.skipped} skipped` : ""}`,
  );
  return tests.exitCode || (failed > 0 ? 1 : 0);
}

/** Types, format and lint, side by side. Prints what failed and returns how many did. */
async function runStaticChecks(): Promise<number> {
  const bun = process.execPath;
  const checks = [
    [bun, "check", "--no-script"],
    [bun, "fmt", "--check", "--no-script"],
    [bun, join(root, "node_modules", ".bin", "oxlint"), "--deny-warnings", ...sourceFolders],
  ];
  const results = await Promise.all(checks.map(runCheck));
  return results.filter((passed) => !passed).length;
}

async function runCheck(command: string[]): Promise<boolean> {
  const child = Bun.spawn(command, { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) === 0) return true;
  const name = command
    .slice(1)
    .map((word) => word.replace(`${root}/`, ""))
    .join(" ");
  process.stderr.write(`${stdout}${stderr}\n(fail) static check: ${name}\n`);
  return false;
}

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
  exitCode: number;
}

/** Runs `bun test ...args` and reads its report on the way through. */
async function runTests(args: string[]): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), "koala-test-"));
  // Bun writes this file only when it comes to its end: output alone could come from a test.
  const junit = args.some((arg) => arg.startsWith("--reporter")) ? null : join(folder, "junit.xml");
  const reporter = junit === null ? [] : ["--reporter=junit", `--reporter-outfile=${junit}`];
  const color = process.stderr.isTTY ? { FORCE_COLOR: "1" } : {};
  // Bun's five seconds are too few for a busy machine, and bunfig.toml's timeout has no effect (1.4.5).
  const timeout = args.some((arg) => arg.startsWith("--timeout")) ? [] : ["--timeout=60000"];
  const child = Bun.spawn([process.execPath, "test", ...timeout, ...reporter, ...args], {
    cwd: root,
    env: { ...process.env, ...color, KOALA_TEST_INNER: "1" },
    stdin: "inherit",
    stdout: "inherit",
    stderr: "pipe",
  });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal));
  const report = new Report();
  const copied = copyLines(child.stderr, report);
  const exitCode = await child.exited;
  // A process that a test left behind may hold the pipe open for ever.
  await Promise.race([copied, Bun.sleep(1000)]);
  const isComplete = junit === null || existsSync(junit);
  rmSync(folder, { recursive: true });
  return report.outcome(exitCode, isComplete);
}

async function copyLines(stream: ReadableStream<Uint8Array>, report: Report): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    process.stderr.write(chunk);
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) report.read(line);
  }
}

/** The closing block of `bun test`: counts, then `Ran N tests across M files`. */
class Report {
  /** Of the block being read; a line of another kind starts over, so that a test's own output counts for nothing. */
  private block: Record<string, number> = {};
  private final: Record<string, number> | null = null;
  private ran = 0;
  private passLines = 0;
  private failLines = 0;

  read(colored: string): void {
    // oxlint-disable-next-line no-control-regex -- terminal colours
    const line = colored.replace(/\x1b\[[0-9;]*m/g, "").trimEnd();
    if (line.startsWith("(pass)")) this.passLines++;
    if (line.startsWith("(fail)")) this.failLines++;
    const count = /^ *(\d+) (pass|fail|skip|todo|error)s?$/.exec(line);
    const end = /^Ran (\d+) tests? across \d+ files?\./.exec(line);
    if (count) this.block[count[2]!] = Number(count[1]);
    else if (end) [this.final, this.ran, this.block] = [this.block, Number(end[1]), {}];
    else if (!/^( *\d+ (filtered out|expect\(\) calls)|snapshots: .*|)$/.test(line)) this.block = {};
  }

  outcome(exitCode: number, isComplete: boolean): Outcome {
    if (this.final === null || !isComplete) {
      console.error(
        `koala: the tests ended without a report (exit code ${exitCode}): a crash, process.exit in a test, or no test file found.`,
      );
      return { passed: this.passLines, failed: this.failLines + 1, skipped: 0, exitCode: exitCode || 1 };
    }
    const { pass = 0, fail = 0, skip = 0, todo = 0, error = 0 } = this.final;
    const skipped = skip + todo;
    const unaccounted = pass + fail + skipped === this.ran ? 0 : 1;
    const failed = Math.max(fail, error) + unaccounted;
    return { passed: pass, failed: failed || (exitCode === 0 ? 0 : 1), skipped, exitCode };
  }
}

process.exit(await main());
