/** Every op against its float64 formula, for every instruction set that this processor runs. */
import { afterAll, describe, expect, test } from "bun:test";
import { smallCases } from "./cases.ts";
import { availableIsas, cpuOnly, ISAS, onGpu, Target } from "./target.ts";

const isas = availableIsas();

/** Mean square of the differences over the mean square of what was wanted. */
function normalisedError(actual: Float64Array, expected: Float64Array): number {
  let [difference, size] = [0, 0];
  expected.forEach((want, i) => {
    difference += (actual[i]! - want) ** 2;
    size += want ** 2;
  });
  return difference / size;
}

for (const isa of ISAS) {
  describe.skipIf(!isas.includes(isa))(
    `ops on ${isa}${isas.includes(isa) ? "" : " (this processor does not run it)"}`,
    () => {
      const target = isas.includes(isa) ? Target.open({ isa, threads: 2 }) : null;
      afterAll(() => target?.close());

      for (const each of smallCases()) {
        // GPUs attend in float32 sums.
        const absent = onGpu && each.name.startsWith("attention") && each.name.includes("f64");
        test.skipIf(absent)(`${each.name}${absent ? cpuOnly : ""}`, () => {
          const prepared = each.prepare(target!);
          prepared.call();
          const [actual, expected] = [prepared.actual(), prepared.expected()];
          expect(actual.length).toBe(expected.length);
          prepared.release?.();
          expect(normalisedError(actual, expected)).toBeLessThan(each.tolerance);
        });
      }
    },
  );
}
