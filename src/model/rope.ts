/** Rotary position tables. Frequencies follow transformers' modeling_rope_utils; angles are computed in float64,
 *  where float32 angles are off by up to 1.4e-4 at position 4095 (E = 128). */
import type { LlamaConfig, RopeConfig } from "./config.ts";

/** cos and sin for positions 0..positions-1: f32 [positions, E/2, 2]. */
export function ropeTable(config: LlamaConfig, positions: number): Float32Array {
  const { frequencies, amplitude } = ropeFrequencies(
    config.rope,
    config.headDim,
    config.maxPositions,
    positions,
  );
  const half = frequencies.length;
  const table = new Float32Array(positions * half * 2);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = position * (frequencies[i] as number);
      table[(position * half + i) * 2] = Math.cos(angle) * amplitude;
      table[(position * half + i) * 2 + 1] = Math.sin(angle) * amplitude;
    }
  }
  return table;
}

/** Angle per position of each pair, and the factor on cos and sin.
 *  "dynamic" depends on the length: like vLLM, one base for the longest sequence that will be served. */
export function ropeFrequencies(
  rope: RopeConfig,
  headDim: number,
  maxPositions: number,
  servedPositions: number,
) {
  const { scaling } = rope;
  const plain = (theta: number) =>
    Array.from({ length: headDim / 2 }, (_, i) => theta ** ((-2 * i) / headDim));
  switch (scaling.type) {
    case "default":
      return { frequencies: plain(rope.theta), amplitude: 1 };
    case "linear":
      return { frequencies: plain(rope.theta).map((f) => f / scaling.factor), amplitude: 1 };
    case "dynamic": {
      const length = Math.max(servedPositions, maxPositions);
      const growth = (scaling.factor * length) / maxPositions - (scaling.factor - 1);
      return { frequencies: plain(rope.theta * growth ** (headDim / (headDim - 2))), amplitude: 1 };
    }
    case "llama3":
      return { frequencies: plain(rope.theta).map((f) => llama3Frequency(f, scaling)), amplitude: 1 };
    case "yarn":
      return yarn(rope.theta, headDim, plain(rope.theta), scaling);
    default:
      return scaling satisfies never;
  }
}

type Scaling<T extends RopeConfig["scaling"]["type"]> = Extract<RopeConfig["scaling"], { type: T }>;

/** Long wavelengths are divided by the factor, short ones kept, those between blended (Llama 3.1). */
function llama3Frequency(frequency: number, s: Scaling<"llama3">): number {
  const wavelength = (2 * Math.PI) / frequency;
  const lowWavelength = s.originalMaxPositions / s.lowFreqFactor;
  const highWavelength = s.originalMaxPositions / s.highFreqFactor;
  if (wavelength < highWavelength) return frequency;
  if (wavelength > lowWavelength) return frequency / s.factor;
  const smooth =
    (s.originalMaxPositions / wavelength - s.lowFreqFactor) / (s.highFreqFactor - s.lowFreqFactor);
  return (1 - smooth) * (frequency / s.factor) + smooth * frequency;
}

/** YaRN (Peng et al. 2023): interpolate slow pairs, keep fast ones, ramp between; attention scaled by mscale. */
function yarn(theta: number, headDim: number, plain: number[], s: Scaling<"yarn">) {
  const pairOf = (rotations: number) =>
    (headDim * Math.log(s.originalMaxPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const floor = s.truncate ? Math.floor : (x: number) => x;
  const ceil = s.truncate ? Math.ceil : (x: number) => x;
  const low = Math.max(floor(pairOf(s.betaFast)), 0);
  let high = Math.min(ceil(pairOf(s.betaSlow)), headDim - 1);
  if (high === low) high += 0.001;
  const frequencies = plain.map((f, i) => {
    const interpolated = Math.min(Math.max((i - low) / (high - low), 0), 1);
    return (f / s.factor) * interpolated + f * (1 - interpolated);
  });
  const mscale = (weight: number) => (s.factor <= 1 ? 1 : 0.1 * weight * Math.log(s.factor) + 1);
  const implied = s.mscale && s.mscaleAllDim ? mscale(s.mscale) / mscale(s.mscaleAllDim) : mscale(1);
  return { frequencies, amplitude: s.attentionFactor ?? implied };
}
