/** A rank of supervisor.test.ts: rank 1 lets a native op read memory that does not exist, rank 0 waits. */
import { Device } from "../../../src/tensor/device.ts";
import { libraryPath } from "../../../src/tensor/library.ts";
import { Ops } from "../../../src/tensor/ops.ts";
import { Tensor } from "../../../src/tensor/tensor.ts";
import { openHeartbeat } from "../../../src/train/ranks/heartbeat.ts";

const rank = Number(process.env.RANK);
const { report, ops: record } = openHeartbeat(process.env.KOALA_HEARTBEATS, rank);
report(3, "backward", "layer 1");
if (rank === 1 && record) {
  const device = Device.open(libraryPath("cpu"), { threads: 1 });
  device.recordOps(record);
  const nowhere = 64;
  new Ops(device).siluMul(new Tensor(nowhere, [1, 16], "f32"), new Tensor(nowhere, [1, 32], "f32"));
}
await Bun.sleep(60_000);
