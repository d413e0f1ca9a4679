/** The device under test of the GPU benches, the shapes they take, and where their rows of results go.
 *  Flags of every bench: --device cpu, cuda, cuda:1 or emu. Rows are JSON lines on stdout; words go to stderr. */
import { type LlamaConfig, parseConfig } from "../../src/model/config.ts";
import type { Device, DevicePeaks } from "../../src/tensor/device.ts";
import { openDevice } from "../../src/tensor/open_device.ts";

/** A line of the final table. */
export interface Row {
  step: string;
  what: string;
  value: number;
  unit: string;
  /** Lowest and highest of the repeats. */
  range?: [number, number];
  /** The most that the measured rates allow, in the same unit. */
  limit?: number;
  /** share: at least this part of the limit; most: at most this value; ratio: at least this multiple of the peer. */
  bar?: { share: number } | { most: number } | { ratio: number };
  /** Who was measured, where it is not Koala. */
  peer?: string;
  note?: string;
}

/** A step that did not run, and why. */
export interface Skipped {
  step: string;
  skipped: string;
}

export const put = (row: Row | Skipped): void => console.log(JSON.stringify(row));

const dims = (D: number, F: number, layers: number, H: number, G: number, V: number, theta = 10000) => ({
  hidden_size: D,
  intermediate_size: F,
  num_hidden_layers: layers,
  num_attention_heads: H,
  num_key_value_heads: G,
  vocab_size: V,
  rope_theta: theta,
});

/** peers.py has the same. */
export const shapes = {
  tiny: dims(64, 192, 2, 4, 2, 512),
  "llama-7b": dims(4096, 11008, 32, 32, 32, 32000),
  "llama-13b": dims(5120, 13824, 40, 40, 40, 32000),
  "llama-3-8b": dims(4096, 14336, 32, 32, 8, 128256, 500000),
};
export type ShapeName = keyof typeof shapes;

export function configOf(name: string, positions: number, layers?: number): LlamaConfig {
  const shape = shapes[name as ShapeName];
  if (!shape) throw new Error(`The shape ${name} is not one of ${Object.keys(shapes).join(", ")}.`);
  const config = {
    architectures: ["LlamaForCausalLM"],
    ...shape,
    ...(layers === undefined ? {} : { num_hidden_layers: layers }),
    rms_norm_eps: 1e-5,
    max_position_embeddings: positions,
    tie_word_embeddings: false,
  };
  return parseConfig(config, name);
}

export interface BenchDevice {
  device: Device;
  /** In bytes/s and FLOP/s, measured just now. */
  rates: { bandwidth: number; float32: number; bfloat16: number };
}

/** Opens "cuda:1", "emu" or "cpu" and measures what it reaches. */
export function openBenchDevice(name: string): BenchDevice {
  const device = openDevice(name);
  const peaks = device.measure();
  console.error(
    `${device.info.name}: ${peaks.bandwidth.toFixed(1)} GB/s, ${peaks.float32.toFixed(0)} GFLOP/s float32, ${peaks.bfloat16.toFixed(0)} bfloat16`,
  );
  return { device, rates: perSecond(peaks) };
}

const perSecond = ({ bandwidth, float32, bfloat16 }: DevicePeaks) => ({
  bandwidth: bandwidth * 1e9,
  float32: float32 * 1e9,
  bfloat16: bfloat16 * 1e9,
});

/** Median, lowest and highest seconds of `repeat` calls after `warm` that are not counted. Each call must wait for its result. */
export function time(call: () => void, { repeat, warm }: { repeat: number; warm: number }) {
  for (let i = 0; i < warm; i++) call();
  const seconds = Array.from({ length: repeat }, () => {
    const begin = Bun.nanoseconds();
    call();
    return (Bun.nanoseconds() - begin) * 1e-9;
  }).sort((a, b) => a - b);
  return {
    median: seconds[repeat >> 1] as number,
    lowest: seconds[0] as number,
    highest: seconds.at(-1) as number,
  };
}
