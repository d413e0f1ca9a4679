/** A training process without a trainer: the real process around steps whose figures are formulas.
 *  The job's metadata says how it behaves: steps, epochs, step_ms, die_at (kills itself once at that step), die_always, fail_at. */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { trainJob, type TrainJobOptions } from "../../src/cli/train_job.ts";
import type { Train, TrainRun } from "../../src/cli/jobs/run_job.ts";
import { Metrics } from "../../src/train/metrics.ts";
import type { TrainEvent } from "../../src/train/events.ts";
import { epochModelDirectory } from "../../src/train/run.ts";
import { openStore } from "../../src/store/store.ts";
import { findJob } from "../../src/store/jobs.ts";
import { UsageError } from "../../src/util/errors.ts";

const options = JSON.parse(process.argv[2]!) as TrainJobOptions;

const train: Train = async (run) => {
  const settings = await metadata();
  const number = (name: string, otherwise: number) => Number(settings[name] ?? otherwise);
  const output = run.plan.recipe.output;
  mkdirSync(output, { recursive: true });
  const state = join(output, "state.txt");
  const save = (step: number) => writeFileSync(state, String(step));
  const steps = number("steps", 6);
  const perEpoch = Math.ceil(steps / number("epochs", 2));
  let step = existsSync(state) ? Number(readFileSync(state, "utf8")) : 0;
  const metrics = new Metrics(output, step);
  const tell = (event: TrainEvent) => {
    metrics.write(event);
    run.onEvent(event);
  };
  tell({
    type: "start",
    step,
    steps,
    documents: 3,
    parameters: 10,
    trainedParameters: 10,
    memoryBytes: 0,
    device: "fake",
  });
  while (step < steps) {
    if (run.stop.aborted) {
      save(step);
      tell({ type: "stop", step, reason: String(run.stop.reason) });
      return null;
    }
    await Bun.sleep(number("step_ms", 1));
    step++;
    tell(stepEvent(step, steps, perEpoch));
    if (step === number("fail_at", -1))
      throw new UsageError(`The loss of step ${step} is not what it should be.`);
    if (step === number("bug_at", -1)) throw new TypeError("a secret detail");
    if (step === number("die_at", -1)) dieOnce(output, settings["die_always"] === "true");
    if (step % perEpoch === 0 && step < steps) {
      tell({ type: "epoch", step, epoch: step / perEpoch });
      save(step);
      exportEpoch(run, step);
    }
  }
  tell({ type: "sample", step, ids: run.prompts.map(() => [10, 11]) });
  return copyModel(run, join(output, "model"));
};

/** The loss falls as 2 / step. */
const stepEvent = (step: number, steps: number, perEpoch: number): TrainEvent => ({
  type: "step",
  step,
  steps,
  epoch: step / perEpoch,
  loss: 2 / step,
  gradientNorm: 1 / step,
  learningRate: 1e-3 * (1 - step / steps),
  skipped: false,
  accuracy: step / steps,
  tokens: 100,
  trainedTokens: 50,
  preference: null,
  seconds: 0.1,
  tokensPerSecond: 1000,
  utilisation: 0.5,
  secondsLeft: (steps - step) * 0.1,
  residentBytes: 0,
  commMs: 0,
  commWaitMs: 0,
});

function dieOnce(output: string, always: boolean): void {
  const mark = join(output, "died");
  if (existsSync(mark) && !always) return;
  writeFileSync(mark, "");
  process.kill(process.pid, "SIGKILL");
}

function exportEpoch(run: TrainRun, step: number): void {
  const directory = copyModel(run, epochModelDirectory(run.epochModels, step));
  run.onEvent({ type: "model", step, directory });
}

function copyModel(run: TrainRun, directory: string): string {
  cpSync(run.plan.model, directory, { recursive: true, dereference: true });
  return directory;
}

async function metadata(): Promise<Record<string, string>> {
  const store = await openStore(process.env["KOALA_DATABASE"]!);
  const job = await findJob(store, options.jobId);
  await store.close();
  return job?.metadata ?? {};
}

await trainJob(options, train);
