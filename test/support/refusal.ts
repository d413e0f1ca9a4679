/** Runs the program where it must refuse, and checks how: exit code 1 and one sentence on stderr. */
import { expect } from "bun:test";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");

export interface Outcome {
  code: number;
  out: string;
  err: string;
}

/** Runs the program to its end; a command that goes on for ten seconds is killed and has no exit code of its own. */
export async function koala(args: string[], environment: Record<string, string> = {}): Promise<Outcome> {
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...args], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...environment },
    timeout: 10_000,
    killSignal: "SIGKILL",
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, out, err };
}

/** Exit 1, nothing on stdout, one line on stderr that is a sentence and says what is asked for. */
export function expectOneSentence(outcome: Outcome, says: RegExp): void {
  // A bar that was full before the fault showed is no complaint.
  const lines = outcome.err
    .split("\n")
    .filter((line) => line !== "" && !/^(?:loading weights|reading \S+) .* 100%/.test(line));
  expect({ code: outcome.code, out: outcome.out, lines: lines.length }).toEqual({
    code: 1,
    out: "",
    lines: 1,
  });
  expect(lines[0]).toMatch(/^koala: .{20,}[.?)]$/);
  expect(lines[0]).toMatch(says);
  expect(lines[0]).not.toMatch(/\bat .*\.ts:\d|TypeError|RangeError|undefined|NaN|\[object/);
}

/** Outcomes of all, started with the first test that asks and shared by the rest. */
export function shared<T>(
  items: readonly T[],
  run: (item: T, i: number) => Promise<Outcome>,
): (item: T) => Promise<Outcome> {
  const outcomes = new Map<T, Outcome>();
  let all: Promise<void> | null = null;
  return async (item) => {
    await (all ??= runAll(items, async (one, i) => void outcomes.set(one, await run(one, i))));
    return outcomes.get(item)!;
  };
}

/** Two at a time: the machine has few cores. */
const runAll = async <T>(items: readonly T[], work: (item: T, i: number) => Promise<void>): Promise<void> => {
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < items.length; i = next++) await work(items[i]!, i);
  };
  await Promise.all([worker(), worker()]);
};
