/** Greedy answers from the weights in training, to look at while they change. Each token runs the whole sequence: samples
 *  are short, and a cache would be memory that training then lacks. */
import type { Device } from "../tensor/device.ts";
import type { TrainMemory } from "./allocation.ts";
import { fillMicroBatch } from "./micro_batch.ts";
import type { TrainModel } from "./model.ts";

export interface Prompt {
  ids: number[];
  tokensMax: number;
  stopIds: number[];
}

/** The ids of the answer, without the stop token. */
export function generateGreedily(
  device: Device,
  memory: TrainMemory,
  model: TrainModel,
  { ids, tokensMax, stopIds }: Prompt,
): number[] {
  const room = memory.working.batch.ints.tokens.size;
  const answer: number[] = [];
  while (answer.length < tokensMax && ids.length + answer.length < room) {
    const sequence = Int32Array.from([...ids, ...answer]);
    const weights = new Float32Array(sequence.length);
    const batch = fillMicroBatch(device, memory.working.batch, [{ ids: sequence, weights, factor: 1 }], null);
    model.forward(batch);
    const logits = Float64Array.from(device.download(model.lastLogits(batch)));
    const best = logits.reduce((top, logit, id) => (logit > (logits[top] as number) ? id : top), 0);
    if (stopIds.includes(best)) break;
    answer.push(best);
  }
  return answer;
}
