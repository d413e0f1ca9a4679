/** A LLaMA-family model that can be trained: embedding, blocks and head over flat blocks, forward and backward.
 *  Always: forward(batch) before logprobs or backward of the same batch; gradients are added, never overwritten; all memory
 *  was allocated before the first call. */
import type { LlamaConfig } from "../model/config.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { TrainOps } from "./ops.ts";
import { type Activations, activationRows, type Flow, flowRows, flowTypes } from "./activations.ts";
import { adapterParts } from "../model/lora.ts";
import { Adapters } from "./adapters.ts";
import type { TrainMemory, TrainSetup } from "./allocation.ts";
import { TrainBlock } from "./block.ts";
import { type BlockState, groupView } from "./flat_state.ts";
import { TrainHead } from "./head.ts";
import { type LinearContext } from "./linear.ts";
import { clear } from "./memory.ts";
import type { MicroBatch } from "./micro_batch.ts";
import { mixSeed, site } from "./random_place.ts";

/** Called around the use of blocks; `block` counts the blocks of the base model (weights) or of what is trained (gradient). */
export interface BlockHooks {
  /** Before a block's weights are read, and after: ZeRO-3 gathers and releases here. */
  need?(block: number, pass: "forward" | "backward"): void;
  done?(block: number, pass: "forward" | "backward"): void;
  /** The gradient of a trained block is complete for this micro-batch. */
  gradient?(block: number): void;
}

export class TrainModel {
  private readonly blocks: TrainBlock[];
  private readonly head: TrainHead;
  private rows: Activations[] = [];

  constructor(
    private readonly ops: TrainOps,
    readonly config: LlamaConfig,
    private readonly memory: TrainMemory,
    private readonly setup: TrainSetup,
    private readonly hooks: BlockHooks = {},
  ) {
    const { base, working } = memory;
    const context: LinearContext = {
      ops,
      compute: base.types.compute,
      packs: working.packs,
      vectors: working.vectors,
    };
    const state = (index: number) => base.blocks[index] as BlockState;
    this.blocks = Array.from({ length: config.layerCount }, (_, layer) => {
      const options = {
        rung: setup.rungs[layer] ?? "none",
        residualDropout: setup.residualDropout,
        attentionDropout: setup.attentionDropout,
        adapters: this.adapters(context, layer),
      };
      return new TrainBlock(context, config, state(layer + 1), layer, options, working.rope);
    });
    const top = state(config.layerCount + 1);
    this.head = config.tieEmbeddings
      ? new TrainHead(context, config, top, state(0), "embedding", working.head)
      : new TrainHead(context, config, top, top, "head", working.head);
  }

  forward(batch: MicroBatch): void {
    const { ops, hooks } = this;
    this.rows = this.memory.working.activations.map((all) => activationRows(all, batch.T));
    hooks.need?.(0, "forward");
    ops.forward.embed(this.input(0, batch), this.table(this.embedding.w), batch.tokens);
    hooks.done?.(0, "forward");
    this.dropEmbedding(this.input(0, batch), batch);
    this.blocks.forEach((block, layer) => {
      hooks.need?.(layer + 1, "forward");
      block.forward(this.input(layer + 1, batch), this.rows[layer] as Activations, batch);
      hooks.done?.(layer + 1, "forward");
    });
  }

  /** log p of each selected row's target, in the batch's order. */
  logprobs(batch: MicroBatch): Float64Array {
    return this.withHead("forward", () => this.head.logprobs(this.output(batch), batch));
  }

  /** Predictions of the last head pass that were right: the target was the most likely token. null in float64. */
  get correct(): number | null {
    return this.head.correct;
  }

  /** Logits [1, V] after the batch's last token; valid until the next call. */
  lastLogits(batch: MicroBatch): Tensor {
    return this.withHead("forward", () => this.head.lastLogits(this.output(batch)));
  }

  /** Adds the gradients of -sum weight * log p over the selected rows; returns log p of each. */
  backward(batch: MicroBatch): Float64Array {
    const { hooks, blocks } = this;
    const flow: Flow = flowRows(this.memory.working.flow, batch.T);
    const logprobs = this.withHead("backward", () => this.head.backward(flow, this.output(batch), batch));
    if (!this.setup.lora) this.complete(blocks.length + 1);
    for (let layer = blocks.length - 1; layer >= 0; layer--) {
      hooks.need?.(layer + 1, "backward");
      (blocks[layer] as TrainBlock).backward(flow, this.rows[layer] as Activations, batch);
      hooks.done?.(layer + 1, "backward");
      this.complete(this.setup.lora ? layer : layer + 1);
    }
    const { gradient } = this.embedding;
    if (gradient) {
      this.dropEmbedding(flow.dx, batch);
      this.ops.embedBackward(this.table(gradient), flow.dx, batch.tokens, batch.order);
      this.complete(0);
    }
    return logprobs;
  }

  /** The hooks of a micro-batch for a rank that has none left: other ranks need it in their collectives. */
  idle(scoresFirst: boolean): void {
    const { hooks, blocks } = this;
    if (scoresFirst) this.idleScores();
    else for (let block = 0; block <= blocks.length; block++) this.use(block, "forward");
    this.withHead("backward", () => {});
    if (!this.setup.lora) hooks.gradient?.(blocks.length + 1);
    for (let layer = blocks.length - 1; layer >= 0; layer--) {
      this.use(layer + 1, "backward");
      hooks.gradient?.(this.setup.lora ? layer : layer + 1);
    }
    if (this.embedding.gradient) hooks.gradient?.(0);
  }

  /** The same of a micro-batch that is scored only: forward and logprobs. */
  idleScores(): void {
    for (let block = 0; block <= this.blocks.length; block++) this.use(block, "forward");
    this.withHead("forward", () => {});
  }

  private use(block: number, pass: "forward" | "backward"): void {
    this.hooks.need?.(block, pass);
    this.hooks.done?.(block, pass);
  }

  /** A trained block's gradient is complete for this micro-batch. */
  private complete(block: number): void {
    const { accumulated, gradient } = this.memory.trained.blocks[block] as BlockState;
    if (accumulated && gradient) {
      this.ops.accumulate(accumulated, gradient);
      clear(this.ops.device, gradient, this.memory.working.zeros);
    }
    this.hooks.gradient?.(block);
  }

  private adapters(context: LinearContext, layer: number): Map<string, Adapters> {
    const { lora } = this.setup;
    const { adapters, working } = this.memory;
    const byKey = new Map<string, Adapters>();
    if (!lora || !adapters || !working.adapters || !working.adapterPacks) return byKey;
    const { activation: compute } = flowTypes(this.setup.precision, this.setup.activations);
    const own = { ...context, compute, packs: working.adapterPacks };
    const parts = adapterParts(this.config, lora, layer);
    for (const key of new Set(parts.map((part) => part.key))) {
      const state = adapters.blocks[layer] as BlockState;
      const some = parts.filter((part) => part.key === key);
      byKey.set(key, new Adapters(own, state, some, lora, working.adapters));
    }
    return byKey;
  }

  private withHead<Result>(pass: "forward" | "backward", run: () => Result): Result {
    const used = [this.blocks.length + 1, ...(this.config.tieEmbeddings ? [0] : [])];
    for (const block of used) this.hooks.need?.(block, pass);
    const result = run();
    for (const block of used) this.hooks.done?.(block, pass);
    return result;
  }

  /** Input of block `layer`; after the last block, its output. */
  private input(layer: number, batch: MicroBatch): Tensor {
    return this.rows[layer]?.x ?? this.output(batch);
  }

  private output(batch: MicroBatch): Tensor {
    return this.memory.working.output.rows(batch.T);
  }

  private dropEmbedding(x: Tensor, batch: MicroBatch): void {
    const p = this.setup.embeddingDropout;
    if (p === 0 || !batch.place) return;
    const { seed, firstToken } = batch.place;
    this.ops.dropout(x, x, firstToken * x.dim(1), mixSeed(seed, site.embedding), p);
  }

  private get embedding(): BlockState {
    return this.memory.base.blocks[0] as BlockState;
  }

  private table(flat: Tensor): Tensor {
    const group = this.embedding.layout.groups.get("embedding");
    if (!group) throw new Error("the first block has no embedding");
    return groupView(flat, group);
  }
}
