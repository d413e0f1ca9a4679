import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../src/model/config.ts";
import { ropeFrequencies, ropeTable } from "../../src/model/rope.ts";

const base = {
  architectures: ["LlamaForCausalLM"],
  vocab_size: 32,
  hidden_size: 256,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 4096,
};
const E = 128;
const config = (more: object) => parseConfig({ ...base, ...more }, "config.json");
const frequencies = (more: object, served = 4096) => {
  const { rope, headDim, maxPositions } = config(more);
  return ropeFrequencies(rope, headDim, maxPositions, served);
};
const plain = (theta: number) => Array.from({ length: E / 2 }, (_, i) => theta ** ((-2 * i) / E));

describe("rope", () => {
  test("without scaling, pair i turns by theta^(-2i/E) a position", () => {
    expect(frequencies({ rope_theta: 500000 })).toEqual({ frequencies: plain(500000), amplitude: 1 });
  });

  test("old and new config fields mean the same", () => {
    const old = frequencies({ rope_theta: 1e6, rope_scaling: { type: "linear", factor: 4 } });
    const now = frequencies({ rope_parameters: { rope_theta: 1e6, rope_type: "linear", factor: 4 } });
    expect(old).toEqual(now);
    expect(old.frequencies).toEqual(plain(1e6).map((f) => f / 4));
  });

  test("dynamic scaling leaves the trained length alone and stretches the slowest pair by the growth beyond it", () => {
    const scaling = { rope_scaling: { type: "dynamic", factor: 2 } };
    expect(frequencies(scaling, 4096).frequencies).toEqual(plain(10000));
    // NTK: with growth g the base becomes theta * g^(E/(E-2)), so the slowest pair slows by exactly g: here 2 * 2 - 1 = 3.
    const slowest = frequencies(scaling, 8192).frequencies.at(-1) as number;
    expect(slowest * 3).toBeCloseTo(plain(10000).at(-1) as number, 12);
  });

  test("llama3 scaling keeps short waves, divides long ones and blends those between", () => {
    const scaling = {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    };
    const { frequencies: got } = frequencies({ rope_theta: 500000, rope_scaling: scaling });
    plain(500000).forEach((f, i) => {
      const wavelength = (2 * Math.PI) / f;
      if (wavelength < 8192 / 4) expect(got[i]).toBe(f);
      else if (wavelength > 8192) expect(got[i]).toBe(f / 8);
      else expect(got[i] as number).toBeGreaterThan(f / 8);
    });
  });

  test("yarn keeps pairs of over 32 turns, divides those of under one, and scales attention by 0.1 ln(factor) + 1", () => {
    const scaling = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32768 };
    const { frequencies: got, amplitude } = frequencies({ rope_theta: 1e6, rope_scaling: scaling });
    expect(amplitude).toBeCloseTo(1.138629436, 9);
    plain(1e6).forEach((f, i) => {
      const turns = (32768 * f) / (2 * Math.PI);
      // The ramp's ends are rounded outwards to whole pairs, so one pair at each end may be blended.
      if (turns > 32 * 1.3) expect(got[i]).toBeCloseTo(f, 12);
      else if (turns < 1 / 1.3) expect(got[i]).toBeCloseTo(f / 4, 12);
      else expect(got[i] as number).toBeWithin(f / 4, f * (1 + 1e-12));
    });
  });

  test("the table is cos and sin of float64 angles", () => {
    const table = ropeTable(config({}), 4096);
    const [position, pair] = [4095, 3];
    const angle = position * 10000 ** (-6 / E);
    expect(table[(position * (E / 2) + pair) * 2]).toBe(Math.fround(Math.cos(angle)));
    expect(table[(position * (E / 2) + pair) * 2 + 1]).toBe(Math.fround(Math.sin(angle)));
  });
});

describe("config.json", () => {
  const refused: [string, object, string][] = [
    [
      "an unknown architecture",
      { architectures: ["GPT2LMHeadModel"] },
      "architecture GPT2LMHeadModel is not supported",
    ],
    [
      "an unknown rope scaling",
      { rope_scaling: { type: "longrope", factor: 2 } },
      "rope scaling longrope is not supported",
    ],
    ["a missing size", { hidden_size: undefined }, "hidden_size is missing, expected a number"],
    ["a size that is no number", { vocab_size: "32" }, 'vocab_size is "32", expected a number'],
    ["a negative size", { num_hidden_layers: -1 }, "num_hidden_layers is -1, expected a positive integer"],
    [
      "heads that do not divide",
      { num_attention_heads: 8, num_key_value_heads: 3 },
      "num_attention_heads 8 is not a multiple of num_key_value_heads 3",
    ],
    ["another activation", { hidden_act: "gelu" }, "hidden_act gelu is not supported, only silu"],
    [
      "quantised weights",
      { quantization_config: { quant_method: "awq" } },
      "weights quantised with awq are not supported",
    ],
    [
      "partial rotation",
      { partial_rotary_factor: 0.5 },
      "partial_rotary_factor 0.5 is not supported, only 1",
    ],
  ];
  test.each(refused)("with %s is refused in a sentence that names it", (_, change, sentence) => {
    expect(() => config(change)).toThrow(sentence);
  });

  test("Qwen2 slides from max_window_layers on, only where use_sliding_window says so", () => {
    const qwen = { architectures: ["Qwen2ForCausalLM"], sliding_window: 64, max_window_layers: 1 };
    expect(config({ ...qwen, use_sliding_window: true }).windows).toEqual([0, 64]);
    expect(config({ ...qwen, use_sliding_window: false }).windows).toEqual([0, 0]);
  });
});
