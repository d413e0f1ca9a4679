/** What the CUDA backend must reach on one H200, and what a run says of it: each bar met, missed or not run.
 *  A bar is met where every one of its tests ran and held; figures of tiny sizes are of no bar but those of errors. */
import type { Result } from "./report.ts";

/** One test that a bar asks for; of several results that match, the worst counts. */
interface Part {
  step: string;
  what: RegExp;
  of: "value" | "share" | "ratio";
  least?: number;
  most?: number;
  /** A peer that must have been there. */
  peer?: RegExp;
}

interface Bar {
  name: string;
  wanted: string;
  parts: Part[];
}

export interface JudgedBar {
  name: string;
  wanted: string;
  figure: string;
  verdict: "met" | "missed" | "not run";
}

/** The share of the limit that counts as reached, by shape and test of the inference bench. */
export const inferenceShares = {
  "llama-7b decode x1": 0.8,
  "llama-7b decode x32": 0.75,
  "llama-3-8b decode x256": 0.6,
  "llama-7b prefill 2048": 0.65,
} as const;

const inference = (test: keyof typeof inferenceShares): Part => ({
  step: "inference",
  what: new RegExp(`^${test}$`),
  of: "share",
  least: inferenceShares[test],
});
const value = (step: string, what: RegExp, most: number): Part => ({ step, what, of: "value", most });

export const bars: Bar[] = [
  {
    name: "ops, float32",
    wanted: "error <= 1e-5 of float64",
    parts: [value("ops", / f32, error$/, 1e-5)],
  },
  {
    name: "ops, bf16",
    wanted: "relative L2 error <= 1e-2 of float64",
    parts: [value("ops", / bf16, error$/, 1e-2)],
  },
  {
    name: "goldens and gradients",
    wanted: "as on the CPU: no test fails",
    parts: ["gradients", "llama_runner", "golden"].map((name) =>
      value("tests", new RegExp(`/${name}, failed tests$`), 0),
    ),
  },
  {
    name: "parity at real width",
    wanted: "logits <= 1.5, gradients, norms and losses <= 2 times PyTorch's own error in bf16",
    parts: [
      value("parity", /^width 4096, logits:/, 1.5),
      value("parity", /^width 4096, gradients of/, 2),
      value("parity", /^width 4096, norms of/, 2),
      value("parity", /^width 4096, losses of/, 2),
    ],
  },
  {
    name: "greedy tokens",
    wanted: "as transformers, but for near ties",
    parts: [value("parity", /^width 4096, greedy answers/, 0)],
  },
  {
    name: "decode, 7B, batch 1",
    wanted: ">= 80 % of measured bandwidth; >= 1.3 x transformers with static cache and compile",
    parts: [
      inference("llama-7b decode x1"),
      { step: "inference", what: /^llama-7b decode x1$/, of: "ratio", least: 1.3, peer: /compiled/ },
    ],
  },
  {
    name: "decode, 7B, batch 32, 1 k context",
    wanted: ">= 75 % of the limit",
    parts: [inference("llama-7b decode x32")],
  },
  {
    name: "decode, Llama-3-8B shape, batch 256, 1 k context",
    wanted: ">= 60 % of the limit",
    parts: [inference("llama-3-8b decode x256")],
  },
  {
    name: "prefill, 7B, 2 k tokens",
    wanted: ">= 65 % of the measured matrix rate",
    parts: [inference("llama-7b prefill 2048")],
  },
  {
    name: "training, 7B dimensions, packed 2 k",
    wanted: ">= 55 % of 989 TFLOP/s; >= 1.0 x PyTorch with flash SDPA, compile and fused AdamW",
    parts: [
      { step: "training", what: /^llama-7b .* x 2048 tokens, step$/, of: "share", least: 0.55 },
      { step: "training", what: /^llama-7b .*, step$/, of: "ratio", least: 1, peer: /torch.*compiled/ },
    ],
  },
  {
    name: "13B full fine-tune",
    wanted: "one step runs with split master and bf16 moments, bytes as plan says",
    parts: [
      { step: "training", what: /^llama-13b x40 .*, step$/, of: "value", least: Number.MIN_VALUE },
      value("training", /^llama-13b x40 .*, bytes held \/ planned$/, 1),
    ],
  },
  {
    name: "8 virtual ranks",
    wanted: "bit-equal to one rank in float32",
    parts: [value("ranks", /^8 ranks/, 0)],
  },
];

export function judgeBars(results: readonly Result[]): JudgedBar[] {
  return bars.map(({ name, wanted, parts }) => {
    const found = parts.map((part) => ({ part, reached: reachedBy(part, results) }));
    const figures = found.map(({ part, reached }) => (reached === null ? "not run" : shown(part, reached)));
    const ran = found.filter(({ reached }) => reached !== null);
    const missed = ran.some(({ part, reached }) => !holds(part, reached as number));
    const verdict = missed ? "missed" : ran.length < parts.length ? "not run" : "met";
    return { name, wanted, figure: ran.length === 0 ? "" : figures.join("; "), verdict };
  });
}

export function barTable(judged: readonly JudgedBar[]): string {
  const rows = judged.map(({ name, wanted, figure: reached, verdict }) => [name, wanted, reached, verdict]);
  return aligned([["bar", "wanted", "reached", ""], ...rows]).join("\n");
}

/** The worst figure of a part; null where none was measured. */
function reachedBy(part: Part, results: readonly Result[]): number | null {
  const figures = results.flatMap((result) => {
    if (result.step !== part.step || !part.what.test(result.what)) return [];
    if (part.peer && !part.peer.test(result.peerName ?? "")) return [];
    const reached = result[part.of];
    return reached === undefined ? [] : [reached];
  });
  if (figures.length === 0) return null;
  return (
    figures.find((reached) => !holds(part, reached)) ??
    (part.most === undefined ? Math.min : Math.max)(...figures)
  );
}

/** A figure that is no number holds nowhere. */
const holds = ({ least, most }: Part, reached: number): boolean =>
  least === undefined ? reached <= (most as number) : reached >= least;

function shown({ of }: Part, reached: number): string {
  if (of === "share") return `${(100 * reached).toFixed(0)} %`;
  return of === "ratio" ? `${reached.toFixed(2)} x` : figure(reached);
}

export function figure(number: number): string {
  if (Number.isInteger(number)) return String(number);
  return Math.abs(number) >= 100
    ? number.toFixed(0)
    : Math.abs(number) >= 0.01
      ? number.toPrecision(3)
      : number.toExponential(1);
}

/** Lines whose cells stand below each other. */
export function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] as number))
      .join("  ")
      .trimEnd(),
  );
}
