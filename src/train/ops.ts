/** The ops of one device: those of training, and with `forward` those that serving has too. */
import type { Device } from "../tensor/device.ts";
import { Ops } from "../tensor/ops.ts";
import { TrainingOps } from "../tensor/training_ops.ts";

export class TrainOps extends TrainingOps {
  readonly forward: Ops;

  constructor(device: Device) {
    super(device);
    this.forward = new Ops(device);
  }
}
