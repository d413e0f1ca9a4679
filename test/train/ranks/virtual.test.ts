/** Ranks that share one GPU (emulated) and read each other's slots in its memory: as many as there would be GPUs, and the bits
 *  of one rank. Four in stage 3 in an ordinary run, eight in stages 2 and 3 with KOALA_EMULATOR_TESTS=all. */
import { beforeAll, describe, expect, test } from "bun:test";
import { buildEmulator } from "../../../ffi/build_gpu.ts";
import { runFolder, TinyRun } from "./tiny_run.ts";

const minutes = 60_000;
const folder = await runFolder();
const everything = process.env.KOALA_EMULATOR_TESTS === "all";
const world = everything ? 8 : 4;
const GPU = "virtual";

/** Ends with the losses, the model's hash and what was said on the way. */
async function finished(ranks: number, zero: number, variables: Record<string, string> = {}) {
  const settings = [`zero=${zero}`, "device=emu", "steps=2", "rows_per_step=8", "checkpoint.interval=0"];
  const run = new TinyRun(folder, settings);
  const said: string[] = [];
  const start = run.start({
    world: ranks,
    variables: { KOALA_EMULATOR_GPU: GPU, ...variables },
    onMessage: (message) => {
      if (message.type === "event") run.events.push(message.event);
      if (message.type === "transport") said.push(message.sentence);
    },
  });
  expect(await start).toBe("finished");
  expect(run.reports).toEqual([]);
  return { losses: run.losses(), weights: run.weights(), said };
}

describe.skipIf(process.arch !== "x64")(`${world} ranks on one GPU (emulated, on x86-64)`, () => {
  beforeAll(() => buildEmulator({ quiet: true }) as unknown as Promise<void>, 10 * minutes);

  test(
    "train to the bits of one rank, with sharded weights, through the GPU's memory",
    async () => {
      const one = await finished(1, 2);
      expect(one.losses).toHaveLength(2);
      for (const zero of everything ? [2, 3] : [3]) {
        const many = await finished(world, zero);
        expect(many.said).toEqual([
          `Collectives go through the memory of the GPU emulated:${GPU}, which ${world} ranks share.`,
        ]);
        expect(many.losses).toEqual(one.losses);
        expect(many.weights).toBe(one.weights);
      }
    },
    5 * minutes,
  );

  test.skipIf(!everything)(
    "in stage 1 to those of ranks that talk through shared memory (with KOALA_EMULATOR_TESTS=all)",
    async () => {
      const [peers, staged] = [await finished(2, 1), await finished(2, 1, { KOALA_COMM: "memory" })];
      expect(staged.said[0]).toContain("KOALA_COMM asks for it");
      expect(peers.losses).toEqual(staged.losses);
      expect(peers.weights).toBe(staged.weights);
    },
    5 * minutes,
  );
});
