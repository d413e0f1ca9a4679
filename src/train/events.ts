/** What a run tells the world while it trains: plain objects, one kind a moment. The same lines make metrics.jsonl. */
import type { StepResult } from "./step.ts";

export type TrainEvent =
  | {
      type: "start";
      /** Steps done before (resumed), and of the whole run. */
      step: number;
      steps: number;
      documents: number;
      parameters: number;
      trainedParameters: number;
      memoryBytes: number;
      /** In words, of the first rank. */
      device: string;
    }
  | StepEvent
  | { type: "warning"; step: number; message: string }
  | { type: "evaluation"; step: number; loss: number; tokens: number; accuracy: number }
  | { type: "checkpoint"; step: number; directory: string }
  | { type: "epoch"; step: number; epoch: number }
  /** A whole model of this step lies in `directory`, under RunOptions.epochModels. */
  | { type: "model"; step: number; directory: string }
  | { type: "sample"; step: number; ids: number[][] }
  | { type: "finish"; step: number; directory: string; seconds: number; trainedTokens: number }
  | { type: "stop"; step: number; reason: string };

export interface StepEvent extends StepResult {
  type: "step";
  /** Steps done, this one included. */
  step: number;
  steps: number;
  epoch: number;
  learningRate: number;
  seconds: number;
  tokensPerSecond: number;
  /** Useful operations per second as a share of the machine's measured peak; null where it was not measured. */
  utilisation: number | null;
  secondsLeft: number;
  /** Of this process. */
  residentBytes: number;
  /** Milliseconds of collectives with other ranks, and the part of them that this rank stood still for. */
  commMs: number;
  commWaitMs: number;
}

export const scalarsOf = (event: StepEvent): Record<string, number> => ({
  "train/loss": event.loss,
  "train/learning_rate": event.learningRate,
  "train/gradient_norm": event.gradientNorm,
  "train/tokens_per_second": event.tokensPerSecond,
  "train/epoch": event.epoch,
  ...(event.accuracy === null ? {} : { "train/accuracy": event.accuracy }),
  ...(event.commMs === 0 ? {} : { "train/comm_ms": event.commMs, "train/comm_wait_ms": event.commWaitMs }),
  ...(event.utilisation === null ? {} : { "train/utilisation": event.utilisation }),
  ...(event.kl === undefined ? {} : { "train/kl": event.kl }),
  ...(event.preference
    ? {
        "train/preference_accuracy": event.preference.accuracy,
        "train/preference_margin": event.preference.margin,
      }
    : {}),
});
