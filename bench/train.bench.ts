/** Whole optimizer steps of training: `bun bench/train.bench.ts [0.1b|0.5b|1.1b] [--precision mixed|bf16|float32] [--tokens 512] [--steps 3] [--threads N] [--profile]`.
 *
 *  A step is forward, backward and AdamW with clipping, on one packed row with a loss on every token. The machine's peak is
 *  measured before each step, because a shared machine changes from minute to minute: trust the percentage.
 *  `--profile` lists the time of a step by native function and shape (the median step's). */
import { parseArgs } from "node:util";
import { parseConfig } from "../src/model/config.ts";
import { Device } from "../src/tensor/device.ts";
import { libraryPath } from "../src/tensor/library.ts";
import type { GradientType, Precision } from "../src/train/flat_state.ts";
import { type Shape, shapes } from "./random_model.ts";
import { openTrainingStep } from "./training_step.ts";

const vocabulary = 32000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    precision: { type: "string", default: "mixed" },
    gradients: { type: "string", default: "auto" },
    tokens: { type: "string", default: "512" },
    steps: { type: "string", default: "3" },
    threads: { type: "string", default: "0" },
    profile: { type: "boolean", default: false },
  },
});
for (const name of positionals.length > 0 ? positionals : ["0.1b"]) bench(name);

function bench(name: string): void {
  const shape = shapes[name as Shape];
  if (!shape) throw new Error(`shape ${name} is not one of ${Object.keys(shapes).join(", ")}`);
  const T = Number(values.tokens);
  const precision = values.precision as Precision;
  const device = Device.open(libraryPath("cpu"), { threads: Number(values.threads) });
  const config = parseConfig(
    {
      architectures: ["LlamaForCausalLM"],
      ...shape,
      vocab_size: vocabulary,
      max_position_embeddings: T,
      tie_word_embeddings: true,
    },
    name,
  );
  const kept =
    values.gradients === "auto" ? (precision === "bf16" ? "bfloat16" : "float32") : values.gradients;
  const training = openTrainingStep(device, config, {
    rows: 1,
    tokens: T,
    precision,
    gradients: kept as GradientType,
  });
  const { memory, flops: useful } = training;
  training.run(0);
  const profile = values.profile ? new Profile(device) : null;
  const kind = memory.base.types.compute === "bf16" ? "bfloat16" : "float32";
  // The peak right before each step: neighbours come and go.
  const samples = Array.from({ length: Number(values.steps) }, (_, step) => {
    const peak = device.measure()[kind];
    profile?.clear();
    const begin = performance.now();
    training.run(step + 1);
    const seconds = (performance.now() - begin) / 1000;
    return { seconds, peak, share: useful / seconds / 1e9 / peak, ops: profile?.rows() ?? [] };
  }).sort((a, b) => a.share - b.share);
  const {
    seconds: median,
    peak,
    share,
    ops: profiled,
  } = samples[samples.length >> 1] as (typeof samples)[number];
  const parameters = memory.base.layout.parameterCount;
  const { activations, workspace, scratch, ...state } = memory.bytes;
  const bytes = Object.values(state).reduce((a, b) => a + b, 0) / parameters;
  console.log(
    `${name} ${precision}: ${(parameters / 1e6).toFixed(0)} M parameters, ${(T / median).toFixed(1)} tokens/s, ` +
      `${(useful / median / 1e9).toFixed(0)} of ${peak.toFixed(0)} GFLOP/s (${(100 * share).toFixed(0)} %), ` +
      `${bytes.toFixed(1)} bytes a parameter, ${((workspace + scratch) / 2 ** 20).toFixed(0)} MiB of workspace, ${(activations / 2 ** 20).toFixed(0)} MiB of activations`,
  );
  for (const [op, { seconds, calls }] of profiled)
    console.log(
      `  ${(seconds * 1000).toFixed(1).padStart(8)} ms ${((100 * seconds) / median).toFixed(1).padStart(5)} % ${String(calls).padStart(4)} x ${op}`,
    );
  training.close();
  device.close();
}

/** Times every native call of a device from now on, by function and sizes. */
class Profile {
  private readonly times = new Map<string, { seconds: number; calls: number }>();

  constructor(device: Device) {
    const timed = Object.fromEntries(
      Object.entries(device.native).map(([name, call]) => [name, this.timed(name, call as NativeCall)]),
    );
    Object.defineProperty(device, "native", { value: timed });
  }

  clear(): void {
    this.times.clear();
  }

  /** The costliest first. */
  rows(): [string, { seconds: number; calls: number }][] {
    return [...this.times]
      .map(([name, time]) => [name, { ...time }] as [string, typeof time])
      .sort(([, a], [, b]) => b.seconds - a.seconds);
  }

  private timed(name: string, call: NativeCall): NativeCall {
    return (...args) => {
      const begin = Bun.nanoseconds();
      const result = call(...args);
      const seconds = (Bun.nanoseconds() - begin) * 1e-9;
      // Small integers are sizes, large ones addresses.
      const sizes = args.filter(
        (arg) => typeof arg === "number" && arg > 1 && arg < 2 ** 31 && arg % 1 === 0,
      );
      const key = `${name.replace("koala_", "")} ${sizes.join(" ")}`;
      const time = this.times.get(key) ?? { seconds: 0, calls: 0 };
      this.times.set(key, { seconds: time.seconds + seconds, calls: time.calls + 1 });
      return result;
    };
  }
}

type NativeCall = (...args: unknown[]) => unknown;
