/** What a block keeps from forward for backward, and what it computes again.
 *  Always: a layer's input x is kept; everything its rung does not keep lies in memory that all layers share and is
 *  computed again by the same ops on the same inputs, so every rung gives the same bits. */
import type { LlamaConfig } from "../model/config.ts";
import type { DType, Tensor } from "../tensor/tensor.ts";
import { type Precision, precisionTypes } from "./flat_state.ts";
import type { Allocator } from "./memory.ts";

/** From keeping all to keeping a block's input only: each rung drops what the one before drops, and more. */
export const rungs = ["none", "norm+swiglu", "ffn", "block"] as const;
export type Rung = (typeof rungs)[number];

/** How activations and their gradients are kept; sums over rows and gradients of parameters are float32 beside both. */
export type ActivationType = "float32" | "bfloat16";

export interface FlowTypes {
  activation: "f32" | "bf16" | "f64";
  /** Log sum exp, logits, log-probabilities and their weights. */
  sum: "f32" | "f64";
}

/** Element types of what flows through the model. */
export function flowTypes(precision: Precision, activations: ActivationType): FlowTypes {
  const { gradient: sum } = precisionTypes[precision];
  return { activation: sum === "f32" && activations === "bfloat16" ? "bf16" : sum, sum };
}

/** Of one layer, [T, width] each. */
export interface Activations {
  /** Input. */
  x: Tensor;
  /** norm(x) */
  h1: Tensor;
  /** After head norms and rotation; `qkvRaw` before them, where there are head norms. */
  qkv: Tensor;
  qkvRaw: Tensor | null;
  attended: Tensor;
  /** log sum exp of each query head. */
  lse: Tensor;
  /** x + attention */
  mid: Tensor;
  /** norm(mid) */
  h2: Tensor;
  gateUp: Tensor;
  gated: Tensor;
}

type Name = keyof Activations;

const droppedBy: Record<Rung, Name[]> = {
  none: [],
  "norm+swiglu": ["h1", "h2", "gated"],
  ffn: ["h1", "h2", "gated", "gateUp"],
  block: ["h1", "qkv", "qkvRaw", "attended", "lse", "mid", "h2", "gateUp", "gated"],
};

export const keeps = (rung: Rung, name: Name): boolean => !droppedBy[rung].includes(name);

/** One entry a layer; `layerRungs` says what each keeps. */
export function allocateActivations(
  memory: Allocator,
  config: LlamaConfig,
  layerRungs: readonly Rung[],
  T: number,
  { activation, sum }: FlowTypes,
): Activations[] {
  const widths = activationWidths(config);
  const names = Object.keys(widths) as Name[];
  const make = (name: Name) =>
    widths[name] === 0 ? null : memory.tensor([T, widths[name]], name === "lse" ? sum : activation);
  const shared = Object.fromEntries(
    names.map((name) => [name, layerRungs.some((rung) => !keeps(rung, name)) ? make(name) : null]),
  );
  return layerRungs.map(
    (rung) =>
      Object.fromEntries(
        names.map((name) => [name, keeps(rung, name) ? make(name) : shared[name]]),
      ) as unknown as Activations,
  );
}

/** The same for the first T tokens. */
export function activationRows(all: Activations, T: number): Activations {
  return Object.fromEntries(
    Object.entries(all).map(([name, tensor]) => [name, (tensor as Tensor | null)?.rows(T) ?? null]),
  ) as unknown as Activations;
}

function activationWidths(config: LlamaConfig): Record<Name, number> {
  const { hiddenSize: D, intermediateSize: F, headCount: H, keyValueHeadCount: G, headDim: E } = config;
  const qkv = (H + 2 * G) * E;
  return {
    x: D,
    h1: D,
    qkv,
    qkvRaw: config.qkNorm ? qkv : 0,
    attended: H * E,
    lse: H,
    mid: D,
    h2: D,
    gateUp: 2 * F,
    gated: F,
  };
}

/** Gradients that flow through one block at a time, shared by all. */
export interface Flow {
  /** Of the block's output, then of its input. */
  dx: Tensor;
  /** Of a branch's output where dropout changes it, and of a norm's output. */
  branch: Tensor;
  dh: Tensor;
  dqkv: Tensor;
  dattended: Tensor;
  dgateUp: Tensor;
  dgated: Tensor;
}

export function allocateFlow(memory: Allocator, config: LlamaConfig, T: number, dtype: DType): Flow {
  const { x, qkv, attended, gateUp, gated } = activationWidths(config);
  const widths = { dx: x, branch: x, dh: x, dqkv: qkv, dattended: attended, dgateUp: gateUp, dgated: gated };
  return Object.fromEntries(
    Object.entries(widths).map(([name, width]) => [name, memory.tensor([T, width], dtype)]),
  ) as unknown as Flow;
}

export function flowRows(flow: Flow, T: number): Flow {
  return Object.fromEntries(
    Object.entries(flow).map(([name, tensor]) => [name, (tensor as Tensor).rows(T)]),
  ) as unknown as Flow;
}
