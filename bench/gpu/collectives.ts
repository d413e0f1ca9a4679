/** All-reduce between processes that share one device: every rank must get the sum in rank order, whatever carries it.
 *  usage: bun bench/gpu/collectives.ts [--device cuda] [--world 8] [--through memory|peer|nccl]
 *  Several processes on one GPU are what shows, on one GPU, that training on several works; they take turns, so no speed is told.
 *  NCCL allows it from 2.30 on, for two (NCCL_MULTI_RANK_GPU_ENABLE=1). */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { contribution, type RankReport, SIZES } from "../../test/ffi/comm_rank.ts";
import { put } from "./bench_device.ts";

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda" },
    world: { type: "string", default: "8" },
    through: { type: "string", default: "memory" },
  },
});
const world = Number(values.world);
const library = values.device.split(":")[0] as string;
const script = join(import.meta.dir, "..", "..", "test", "ffi", "comm_rank.ts");
const shared = {
  NCCL_MULTI_RANK_GPU_ENABLE: "1",
  NCCL_MAX_CTAS: "2",
  NCCL_DEBUG: "WARN",
  KOALA_EMULATOR_GPU: "one",
};
const object = `/koala-bench-${crypto.randomUUID()}`;
const name =
  values.through === "nccl" ? await ncclName() : values.through === "peer" ? `peer:${object}` : object;
if (name === "")
  put({ step: "collectives", skipped: "NCCL was not found; koala doctor says where it is looked for" });
else await compare(name);

async function compare(meeting: string): Promise<void> {
  const memory = library === "cpu" ? "host" : "device";
  const begin = performance.now();
  const texts = await Promise.all(
    Array.from({ length: world }, (_, rank) => start([meeting, `${rank}`, `${world}`, "sums", memory])),
  );
  const reports = texts.map((text) => JSON.parse(text) as RankReport);
  const error = reports.find((report) => report.error !== null)?.error;
  if (error) throw new Error(error);
  put({
    step: "collectives",
    what: `${world} ranks through ${values.through}, sums of float32 that are wrong`,
    value: SIZES.reduce((sum, n) => sum + wrong(reports, n), 0),
    unit: "sums",
    bar: { most: 0 },
    note: `all_reduce of ${SIZES.map((n) => n * world).join(", ")} numbers, ${((performance.now() - begin) / 1000).toFixed(1)} s with the start`,
  });
}

/** Numbers that are not the sum in rank order, bit for bit, on any rank. */
function wrong(reports: RankReport[], n: number): number {
  const exact = Float32Array.from(contribution(0, n * world));
  for (let rank = 1; rank < world; rank++)
    Float32Array.from(contribution(rank, n * world)).forEach((x, i) => {
      exact[i] = (exact[i] as number) + x;
    });
  const all = reports.map((report) => floats(report.results[`all_reduce f32 ${n}`] ?? ""));
  // Not "different": a sum that is no number is wrong.
  return all.reduce((sum, one) => sum + exact.filter((want, i) => !(one[i] === want)).length, 0);
}

function floats(base64: string): Float32Array {
  return new Float32Array(new Uint8Array(Buffer.from(base64, "base64")).buffer);
}

async function ncclName(): Promise<string> {
  const offer = JSON.parse(await start(["-", "0", "1", "offer"])) as { name: string };
  return offer.name;
}

async function start(args: string[]): Promise<string> {
  const child = Bun.spawn([process.execPath, script, ...args], {
    env: { ...process.env, ...shared, KOALA_TEST_LIBRARY: library },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [text, words] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if (text === "") throw new Error(words.trim().slice(-400) || "a rank ended without a word");
  return text;
}
