/** Everything a training run keeps in memory, allocated once at start; the plan is the same code without memory. */
import type { LlamaConfig } from "../model/config.ts";
import { flatLayout } from "../model/flat_layout.ts";
import { adapterParts, type LoraConfig } from "../model/lora.ts";
import { ropeTable } from "../model/rope.ts";
import { parametersOf } from "../model/weights.ts";
import { Arena } from "../tensor/arena.ts";
import type { Device } from "../tensor/device.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  type Activations,
  type ActivationType,
  allocateActivations,
  allocateFlow,
  type Flow,
  flowTypes,
  type Rung,
} from "./activations.ts";
import {
  adapterLayout,
  type AdapterScratch,
  allocateAdapterScratch,
  fillAdapterScratch,
} from "./adapters.ts";
import {
  allocateState,
  alone,
  type FlatState,
  type GradientType,
  type Precision,
  precisionTypes,
  type Share,
  type ZeroStage,
} from "./flat_state.ts";
import { allocateHead, type HeadMemory } from "./head.ts";
import { allocatePackScratch, type PackScratch, VectorScratch } from "./linear.ts";
import { type Allocator, Sizer } from "./memory.ts";
import { allocateMicroBatch, type MicroBatchMemory } from "./micro_batch.ts";
import { scratchBytes } from "./scratch.ts";

/** What decides how much memory a run takes. */
export interface TrainSetup {
  precision: Precision;
  /** How gradients of the step are kept; those of adapters are always exact. */
  gradients: GradientType;
  activations: ActivationType;
  /** Tokens of the largest micro-batch, and of the longest document. */
  maxTokens: number;
  positions: number;
  /** Rows whose logits exist at the same time. */
  chunkRows: number;
  /** One a layer. */
  rungs: Rung[];
  residualDropout: number;
  embeddingDropout: number;
  attentionDropout: number;
  /** null: every parameter is trained. */
  lora: LoraConfig | null;
  share: Share;
  stage: ZeroStage;
}

export const defaultSetup = (config: LlamaConfig, maxTokens: number): TrainSetup => ({
  precision: "float32",
  gradients: "float32",
  activations: "float32",
  maxTokens,
  positions: maxTokens,
  chunkRows: 256,
  rungs: Array<Rung>(config.layerCount).fill("none"),
  residualDropout: 0,
  embeddingDropout: 0,
  attentionDropout: 0,
  lora: null,
  share: alone,
  stage: 1,
});

const arenaKinds = ["weights", "gradients", "optimizer", "activations", "workspace"] as const;
type ArenaKind = (typeof arenaKinds)[number];
/** scratch is the device's own. */
export const memoryKinds = [...arenaKinds, "scratch"] as const;
export type MemoryKind = (typeof memoryKinds)[number];

export interface TrainMemory {
  base: FlatState;
  /** The trained part of a LoRA run. */
  adapters: FlatState | null;
  /** What the optimizer updates: the adapters, or else the base. */
  trained: FlatState;
  working: Working;
  bytes: Record<MemoryKind, number>;
  close(): void;
}

export interface Working {
  activations: Activations[];
  /** Of the last block. */
  output: Tensor;
  flow: Flow;
  head: HeadMemory;
  batch: MicroBatchMemory;
  packs: PackScratch;
  vectors: VectorScratch;
  rope: Tensor;
  adapterPacks: PackScratch | null;
  adapters: AdapterScratch | null;
  /** Zeros that gradients are cleared from. */
  zeros: Tensor;
}

const zeroElements = 1 << 18;

/** Bytes of each kind, exactly what openMemory takes. */
export function planMemory(
  device: Device,
  config: LlamaConfig,
  setup: TrainSetup,
): Record<MemoryKind, number> {
  const sizers = byKind(() => new Sizer(device));
  allocate(sizers, config, setup);
  return { ...byKind((kind) => sizers[kind].bytes), scratch: scratchBytes(device, config, setup, false) };
}

/** One arena a kind. Throws NativeError when the device has not enough memory. */
export function openMemory(device: Device, config: LlamaConfig, setup: TrainSetup): TrainMemory {
  const bytes = planMemory(device, config, setup);
  const arenas = byKind((kind) => new Arena(device, kind, bytes[kind]));
  const memory = allocate(arenas, config, setup);
  scratchBytes(device, config, setup, true);
  device.upload(memory.working.rope, ropeTable(config, setup.positions));
  if (memory.working.adapters && setup.lora)
    fillAdapterScratch(device, memory.working.adapters, adapterParts(config, setup.lora, 0));
  return { ...memory, bytes, close: () => arenaKinds.forEach((kind) => arenas[kind].close()) };
}

function allocate(memory: Record<ArenaKind, Allocator>, config: LlamaConfig, setup: TrainSetup) {
  const { lora, precision, share, stage, gradients } = setup;
  const base = allocateState(memory, flatLayout(config), precision, {
    trained: !lora,
    share,
    stage,
    gradients,
  });
  // Adapters are small: their weights and moments are always exact.
  const exact = precision === "float64" ? "float64" : "float32";
  const adapters = lora
    ? allocateState(memory, adapterLayout(config, lora), exact, {
        share,
        stage: Math.min(stage, 2) as ZeroStage,
      })
    : null;
  return { base, adapters, trained: adapters ?? base, working: allocateWorking(memory, config, setup) };
}

function allocateWorking(
  memory: Record<ArenaKind, Allocator>,
  config: LlamaConfig,
  setup: TrainSetup,
): Working {
  const { compute } = precisionTypes[setup.precision];
  const types = flowTypes(setup.precision, setup.activations);
  const { activation, sum } = types;
  const { maxTokens: T, lora } = setup;
  const { activations, workspace } = memory;
  const { layers, top } = parametersOf(config);
  const all = [...(layers[0] ?? []), ...top];
  const matrices = all.flatMap((p) => ("matrix" in p ? [[p.N, p.K] as const] : []));
  const longest = Math.max(...all.flatMap((p) => ("vector" in p ? [p.size] : [])));
  const parts = lora ? adapterParts(config, lora, 0) : [];
  const thin = parts.flatMap(({ width, K }) => [
    [lora?.rank ?? 0, K] as const,
    [width, lora?.rank ?? 0] as const,
  ]);
  return {
    activations: allocateActivations(activations, config, setup.rungs, T, types),
    output: activations.tensor([T, config.hiddenSize], activation),
    flow: allocateFlow(activations, config, T, activation),
    head: allocateHead(activations, config, T, setup.chunkRows, types),
    batch: allocateMicroBatch(activations, T, sum),
    packs: allocatePackScratch(workspace, matrices, compute),
    vectors: new VectorScratch(workspace, longest, activation, sum),
    rope: workspace.tensor([setup.positions, config.headDim / 2, 2], "f32"),
    adapterPacks: lora ? allocatePackScratch(workspace, thin, activation) : null,
    adapters: lora ? allocateAdapterScratch(workspace, parts, lora, T, activation) : null,
    zeros: workspace.tensor([zeroElements], sum),
  };
}

const byKind = <Value>(make: (kind: ArenaKind) => Value): Record<ArenaKind, Value> =>
  Object.fromEntries(arenaKinds.map((kind) => [kind, make(kind)])) as Record<ArenaKind, Value>;
