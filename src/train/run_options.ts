/** A recipe's settings in the words of the parts that use them. */
import type { LlamaConfig } from "../model/config.ts";
import { UsageError } from "../util/errors.ts";
import type { ActivationType, Rung } from "./activations.ts";
import type { LoraConfig } from "../model/lora.ts";
import type { TrainSetup } from "./allocation.ts";
import type { GradientType, Share } from "./flat_state.ts";
import type { Method } from "./loss.ts";
import type { Recipe } from "./recipe.ts";
import type { ScheduleConfig } from "./schedule.ts";

export function setupOf(recipe: Recipe, config: LlamaConfig, share: Share): TrainSetup {
  if (recipe.sequence_length > config.maxPositions && config.rope.scaling.type === "default")
    throw new UsageError(
      `sequence_length ${recipe.sequence_length} is more than the ${config.maxPositions} positions of the model.`,
    );
  const recomputed = recipe.recompute_layers ?? config.layerCount;
  return {
    precision: recipe.precision,
    gradients: gradientsOf(recipe),
    activations: activationsOf(recipe),
    // A row of DPO or KTO holds at least one pair of documents.
    maxTokens: recipe.micro_rows * recipe.sequence_length * (recipe.method.type === "sft" ? 1 : 2),
    positions: recipe.sequence_length,
    chunkRows: recipe.head_chunk,
    rungs: Array.from({ length: config.layerCount }, (_, layer): Rung =>
      layer < recomputed ? recipe.recompute : "none",
    ),
    residualDropout: recipe.dropout.residual,
    embeddingDropout: recipe.dropout.embedding,
    attentionDropout: recipe.dropout.attention,
    lora: loraOf(recipe),
    share,
    stage: recipe.zero,
  };
}

export function loraOf({ lora }: Recipe): LoraConfig | null {
  if (!lora) return null;
  const { rank, alpha, dropout, targets, rslora: rsLora } = lora;
  return { rank, alpha, dropout, targets, rsLora };
}

/** Micro-batches of a step up to which sums in bfloat16 are exact to 1 %: one rounding each, relative error 1.6e-3 after one,
 *  3.6e-3 after 8, 9e-3 after 64; from 256 on, gradients that agree would be lost (4 %, and 38 % after 1024). */
const roundedMicroBatches = 64;

function gradientsOf({ gradients, precision, rows_per_step, micro_rows }: Recipe): GradientType {
  if (gradients !== "auto") return gradients;
  const few = Math.ceil(rows_per_step / micro_rows) <= roundedMicroBatches;
  return precision === "bf16" && few ? "bfloat16" : "float32";
}

/** GPUs multiply in bfloat16 and are bound by memory between products; the CPU's kernels are made for float32. */
export function activationsOf({ activations, precision, device }: Recipe): ActivationType {
  if (activations !== "auto") return activations;
  return device !== "cpu" && precision !== "float32" ? "bfloat16" : "float32";
}

export function methodOf({ method }: Recipe): Method {
  if (method.type === "dpo") return { type: "dpo", beta: method.beta };
  if (method.type === "sft") return { type: "sft", reduction: method.loss_reduction };
  const { beta, desirable_weight: desirableWeight, undesirable_weight: undesirableWeight } = method;
  return { type: "kto", beta, desirableWeight, undesirableWeight };
}

export function scheduleOf({ schedule }: Recipe, steps: number): ScheduleConfig {
  const { type, learning_rate, warmup_steps, warmup_share, floor, decay_share } = schedule;
  return {
    type,
    learningRate: learning_rate,
    warmupSteps: warmup_steps ?? Math.ceil((warmup_share ?? 0) * steps),
    floor,
    decayShare: decay_share,
  };
}
