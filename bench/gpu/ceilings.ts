/** What this device reaches at most: the ceilings that all percentages of the table are of, each bench measuring them anew.
 *  usage: bun bench/gpu/ceilings.ts [--device cuda:0] */
import { parseArgs } from "node:util";
import { openDevice } from "../../src/tensor/open_device.ts";
import { put } from "./bench_device.ts";

const repeats = 3;
const { values } = parseArgs({ options: { device: { type: "string", default: "cuda:0" } } });
const device = openDevice(values.device);
const peaks = Array.from({ length: repeats }, () => device.measure());
for (const [what, unit, pick] of [
  ["read bandwidth", "GB/s", ({ bandwidth }) => bandwidth],
  ["products of bfloat16 matrices", "TFLOP/s", ({ bfloat16 }) => bfloat16 / 1000],
  ["products of float32", "TFLOP/s", ({ float32 }) => float32 / 1000],
] as [string, string, (peak: (typeof peaks)[number]) => number][]) {
  const sorted = peaks.map(pick).sort((a, b) => a - b) as [number, number, number];
  put({
    step: "ceilings",
    what,
    value: sorted[1],
    unit,
    range: [sorted[0], sorted[2]],
    note: device.info.name,
  });
}
device.close();
