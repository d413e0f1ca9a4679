/** A recipe's settings in the words of the parts that use them. */
import type { LlamaConfig } from "../model/config.ts";
import { UsageError } from "../util/errors.ts";
import type { Rung } from "./activations.ts";
import type { LoraConfig } from "./adapters.ts";
import type { TrainSetup } from "./allocation.ts";
import type { Share } from "./flat_state.ts";
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
    // A row of DPO holds at least one pair.
    maxTokens: recipe.micro_rows * recipe.sequence_length * (recipe.method.type === "dpo" ? 2 : 1),
    positions: recipe.sequence_length,
    chunkRows: recipe.head_chunk,
    rungs: Array.from({ length: config.layerCount }, (_, layer): Rung =>
      layer < recomputed ? recipe.recompute : "none",
    ),
    residualDropout: recipe.dropout.residual,
    embeddingDropout: recipe.dropout.embedding,
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

export const methodOf = ({ method }: Recipe): Method =>
  method.type === "dpo"
    ? { type: "dpo", beta: method.beta }
    : { type: "sft", reduction: method.loss_reduction };

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
