/** One transformer block with its backward, mirrored: x + attention(norm(x)), then x + mlp(norm(x)). The forward half reads
 *  like src/model/llama.ts; dropout acts on the weights of attention (EasyLM's attn_pdrop), and on the two branch outputs
 *  before they join the residual (its resid_pdrop). */
import type { LlamaConfig } from "../model/config.ts";
import type { Heads } from "../tensor/ops.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { AttentionScores, Documents } from "../tensor/training_arguments.ts";
import { type Activations, type Flow, keeps, type Rung } from "./activations.ts";
import type { Adapters } from "./adapters.ts";
import { type BlockState, groupView } from "./flat_state.ts";
import { Linear, type LinearContext } from "./linear.ts";
import type { MicroBatch } from "./micro_batch.ts";
import { mixSeed, type RandomPlace, site } from "./random_place.ts";

export interface BlockOptions {
  rung: Rung;
  /** Probability that an element of a branch's output is dropped. */
  residualDropout: number;
  /** Probability that a weight of attention is dropped. */
  attentionDropout: number;
  /** By group key; absent where nothing is adapted. */
  adapters: Map<string, Adapters>;
}

export class TrainBlock {
  private readonly heads: Heads;
  private readonly linears: Record<"qkv" | "output" | "gateUp" | "down", Linear>;

  constructor(
    private readonly context: LinearContext,
    private readonly config: LlamaConfig,
    private readonly state: BlockState,
    private readonly layer: number,
    private readonly options: BlockOptions,
    private readonly rope: Tensor,
  ) {
    this.heads = { H: config.headCount, G: config.keyValueHeadCount, E: config.headDim };
    const linear = (key: string): Linear => {
      const bias = state.layout.groups.has(`${key}Bias`) ? `${key}Bias` : null;
      return new Linear(context, state, key, bias, options.adapters.get(key) ?? null);
    };
    this.linears = {
      qkv: linear("qkv"),
      output: linear("output"),
      gateUp: linear("gateUp"),
      down: linear("down"),
    };
  }

  /** out [T, D] <- block(a.x); fills `a`. */
  forward(out: Tensor, a: Activations, batch: MicroBatch): void {
    const place = this.place(batch);
    this.attention(a, batch, place);
    this.mlpInner(a, place);
    this.linears.down.forward(out, a.gated, place);
    this.dropBranch(out, out, site.mlpOutput, place);
    this.context.ops.axpby(out, a.mid, 1, 1);
  }

  /** flow.dx: gradient of the output, becomes that of a.x. Gradients of parameters are added. */
  backward(flow: Flow, a: Activations, batch: MicroBatch): void {
    const place = this.place(batch);
    this.recompute(a, batch, place);
    this.mlpBackward(flow, a, place);
    this.attentionBackward(flow, a, batch, place);
  }

  /** a.mid <- a.x + attention(norm(a.x)); a.h2 <- norm(a.mid) */
  private attention(a: Activations, batch: MicroBatch, place: RandomPlace | null): void {
    const { ops } = this.context;
    const { config, heads } = this;
    ops.forward.rmsNorm(a.h1, a.x, this.vector("attentionNorm"), config.normEps);
    this.linears.qkv.forward(a.qkv, a.h1, place);
    if (a.qkvRaw) {
      ops.device.copy(a.qkvRaw.data, a.qkv.data, a.qkv.bytes);
      ops.forward.qkNorm(a.qkv, this.vector("queryNorm"), this.vector("keyNorm", 1), heads, config.normEps);
    }
    ops.forward.rope(a.qkv, this.rope, batch.positions, heads);
    ops.documentAttention(a.attended, a.lse, a.qkv, documentsOf(batch), heads, this.scores(place));
    this.linears.output.forward(a.mid, a.attended, place);
    this.dropBranch(a.mid, a.mid, site.attentionOutput, place);
    ops.forward.addRmsNorm(a.h2, a.mid, a.x, this.vector("mlpNorm"), config.normEps);
  }

  /** a.gated <- silu(gate) * up of a.h2 */
  private mlpInner(a: Activations, place: RandomPlace | null): void {
    const { ops } = this.context;
    this.linears.gateUp.forward(a.gateUp, a.h2, place);
    ops.forward.siluMul(a.gated, a.gateUp);
  }

  /** Fills again what the rung did not keep, by the ops of forward. */
  private recompute(a: Activations, batch: MicroBatch, place: RandomPlace | null): void {
    const { ops } = this.context;
    const { rung } = this.options;
    if (rung === "none") return;
    if (rung === "block") this.attention(a, batch, place);
    else {
      ops.forward.rmsNorm(a.h1, a.x, this.vector("attentionNorm"), this.config.normEps);
      ops.forward.rmsNorm(a.h2, a.mid, this.vector("mlpNorm"), this.config.normEps);
    }
    if (keeps(rung, "gateUp")) ops.forward.siluMul(a.gated, a.gateUp);
    else this.mlpInner(a, place);
  }

  private mlpBackward(flow: Flow, a: Activations, place: RandomPlace | null): void {
    const { ops } = this.context;
    const dy = this.dropBranch(flow.branch, flow.dx, site.mlpOutput, place);
    this.linears.down.backward(flow.dgated, dy, a.gated, place);
    ops.siluMulBackward(flow.dgateUp, flow.dgated, a.gateUp);
    this.linears.gateUp.backward(flow.dh, flow.dgateUp, a.h2, place);
    this.normBackward(flow, a.mid, "mlpNorm");
  }

  private attentionBackward(flow: Flow, a: Activations, batch: MicroBatch, place: RandomPlace | null): void {
    const { ops } = this.context;
    const { heads, config } = this;
    const dy = this.dropBranch(flow.branch, flow.dx, site.attentionOutput, place);
    this.linears.output.backward(flow.dattended, dy, a.attended, place);
    ops.documentAttentionBackward(
      flow.dqkv,
      flow.dattended,
      { y: a.attended, lse: a.lse, qkv: a.qkv },
      documentsOf(batch),
      heads,
      this.scores(place),
    );
    ops.ropeBackward(flow.dqkv, this.rope, batch.positions, heads);
    if (a.qkvRaw) {
      const weights = { query: this.vector("queryNorm"), key: this.vector("keyNorm", 1) };
      const gradients = { query: this.gradient("queryNorm"), key: this.gradient("keyNorm", 1) };
      ops.qkNormBackward(flow.dqkv, gradients, a.qkvRaw, weights, heads, config.normEps);
    }
    this.linears.qkv.backward(flow.dh, flow.dqkv, a.h1, place);
    this.normBackward(flow, a.x, "attentionNorm");
  }

  /** flow.dx += gradient of norm's input x from flow.dh. */
  private normBackward(flow: Flow, x: Tensor, key: string): void {
    const { ops } = this.context;
    ops.rmsNormBackward(flow.dx, this.gradient(key), flow.dh, x, this.vector(key), this.config.normEps, true);
  }

  /** Dropout of a branch and, with the same mask, of its gradient; x itself where there is none. */
  private dropBranch(y: Tensor, x: Tensor, where: number, place: RandomPlace | null): Tensor {
    const p = this.options.residualDropout;
    if (p === 0 || !place) return x;
    this.context.ops.dropout(y, x, place.firstToken * y.dim(1), mixSeed(place.seed, where), p);
    return y;
  }

  private scores(place: RandomPlace | null): AttentionScores {
    const { attentionDropout: probability } = this.options;
    const drop =
      probability > 0 && place ? { probability, seed: mixSeed(place.seed, site.attentionWeights) } : null;
    const { windows, headDim } = this.config;
    return { window: windows[this.layer] ?? 0, scale: 1 / Math.sqrt(headDim), drop };
  }

  private place({ place }: MicroBatch): RandomPlace | null {
    return place && { seed: mixSeed(place.seed, 1000 + this.layer), firstToken: place.firstToken };
  }

  private vector(key: string, slot = 0): Tensor {
    return this.context.vectors.get(this.context.ops, this.view(this.state.w, key), slot);
  }

  private gradient(key: string, slot = 0): Tensor {
    const { w, gradient } = this.state;
    if (gradient) return this.view(gradient, key);
    return this.context.vectors.unusedGradient(this.view(w, key).size, slot);
  }

  private view(flat: Tensor, key: string): Tensor {
    const group = this.state.layout.groups.get(key);
    if (!group) throw new Error(`block ${this.state.layout.name} has no group ${key}`);
    return groupView(flat, group);
  }
}

/** Every layer forgets the same keys, as in EasyLM. */
const documentsOf = ({ starts, forget, place }: MicroBatch): Documents => ({
  starts,
  forget,
  seed: mixSeed(place?.seed ?? 0, site.forget),
  first: place?.firstToken ?? 0,
});
