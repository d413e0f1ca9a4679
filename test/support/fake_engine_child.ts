/** An engine process around the fake runner, for tests of the handle: `bun fake_engine_child.ts '<options as JSON>'`.
 *  It reports its process id as the device, so that a test can kill it or see that it is gone. */
import { existsSync } from "node:fs";
import { type LoadedModel, runEngineProcess } from "../../src/engine/process.ts";
import { FakeRunner, type FakeRunnerOptions } from "./fake_runner.ts";

export interface FakeChildOptions extends Omit<FakeRunnerOptions, "onStep"> {
  /** Each step blocks this long, like native code does. */
  stepMs?: number;
  /** Loading fails with this sentence. */
  failLoad?: string;
  /** Loading fails where this file exists. */
  failLoadWhere?: string;
  /** The native library fails in steps with this token in a row. */
  failToken?: number;
  /** The process kills itself in a step with this token in a row. */
  deadlyToken?: number;
  /** Dies this long after it was ready. */
  diesAfterMs?: number;
}

const options: FakeChildOptions = JSON.parse(process.argv[2] ?? "{}");

async function load(progress: (stage: string, done: number, total: number) => void): Promise<LoadedModel> {
  progress("loading weights", 0, 2);
  if (options.failLoad !== undefined) throw new Error(options.failLoad);
  const obstacle = options.failLoadWhere;
  if (obstacle !== undefined && existsSync(obstacle)) throw new Error(`${obstacle} is in the way.`);
  progress("loading weights", 2, 2);
  const runner = new FakeRunner({
    ...options,
    onStep: (rows) => {
      if (options.stepMs !== undefined) Bun.sleepSync(options.stepMs);
      const tokens = rows.flatMap((row) => row.tokens);
      if (tokens.includes(options.failToken ?? -1)) throw new Error("the device is lost");
      if (tokens.includes(options.deadlyToken ?? -1)) process.kill(process.pid, "SIGKILL");
    },
  });
  if (options.diesAfterMs !== undefined) setTimeout(() => process.exit(7), options.diesAfterMs);
  const { vocabularySize, maxModelLen, maxRows, hiddenSize } = runner;
  const vocabulary = {
    bytes: Array.from({ length: vocabularySize }, (_, id) => Uint8Array.of(97 + (id % 26))),
    endIds: [0],
  };
  const sizes = { parameterCount: 0, weightBytes: 0, cacheBytes: 0, loadMs: 0, hiddenSize };
  const info = {
    vocabularySize,
    maxModelLen,
    maxSequences: maxRows,
    dtype: "fake",
    cacheDtype: "fake",
    device: String(process.pid),
    ...sizes,
  };
  return { runner, vocabulary, info };
}

await runEngineProcess(load);
