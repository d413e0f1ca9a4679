/** The end of bench/gpu.sh: all rows as one table, the bars with what was reached (bars.ts), and both as one JSON file.
 *  usage: bun bench/gpu/report.ts --rows ROWS.jsonl --out FILE.json [--doctor DOCTOR.json] [--device NAME] [--size tiny|full]
 *  Ends with 1 where a check failed: a row above what it may be at most, or a step of ours that did not end well. Speeds that are
 *  below their bar are marked and are no failure: a shared machine has slow minutes. */
import { parseArgs } from "node:util";
import { aligned, barTable, figure, judgeBars } from "./bars.ts";
import type { Row, Skipped } from "./bench_device.ts";

/** As gpu.sh writes them, too. */
type Line = Row | (Skipped & { failed?: boolean });

/** A row with its place beside limit, peer and bar. */
export interface Result extends Row {
  /** Of the limit. */
  share?: number;
  peerName?: string;
  peerValue?: number;
  /** Of the peer. */
  ratio?: number;
  verdict: "ok" | "below" | "FAILED" | "";
}

/** At least this multiple of the peer, by step and test. */
const peerBars: [pattern: RegExp, ratio: number][] = [
  [/^llama-7b decode x1$/, 1.3],
  [/, step$/, 1],
];

/** The lines that benches wrote; JSON has null for what is no number. */
export function parseLines(text: string): Line[] {
  const numbers = (key: string, value: unknown) => (key === "value" && value === null ? NaN : value);
  return text
    .split("\n")
    .flatMap((line) => (line.startsWith("{") ? [JSON.parse(line, numbers) as Line] : []));
}

/** Rows of ours in their order, each once: a test that ran twice has its mean and all of its range, and a line for each peer. */
export function results(lines: Line[]): Result[] {
  const rows = lines.filter((line): line is Row => "what" in line);
  const peers = Map.groupBy(
    rows.filter(({ peer }) => peer !== undefined),
    ({ what }) => what,
  );
  const own = Map.groupBy(
    rows.filter(({ peer }) => peer === undefined),
    ({ step, what }) => `${step}\n${what}`,
  );
  return [...own.values()].flatMap((runs) => {
    const [first, ...others] = peers.get((runs[0] as Row).what) ?? [];
    // Bars are about the first peer, PyTorch.
    const plain = others.map((peer) => compared(merged(runs), peer));
    return [judged(merged(runs), first), ...plain];
  });
}

export const failed = (lines: Line[]): boolean =>
  lines.some((line) => "failed" in line && line.failed) ||
  results(lines).some(({ verdict }) => verdict === "FAILED");

function merged(runs: Row[]): Row {
  const [first] = runs as [Row];
  const mean = (pick: (row: Row) => number) => runs.reduce((sum, row) => sum + pick(row), 0) / runs.length;
  const ranges = runs.flatMap(({ range }) => range ?? []);
  return {
    ...first,
    value: mean((row) => row.value),
    ...(ranges.length === 0 ? {} : { range: [Math.min(...ranges), Math.max(...ranges)] as [number, number] }),
    ...(first.limit === undefined ? {} : { limit: mean((row) => row.limit ?? 0) }),
  };
}

function compared(row: Row, peer: Row): Result {
  const { bar: _, limit: __, ...rest } = row;
  return {
    ...rest,
    peerName: peer.peer as string,
    peerValue: peer.value,
    ratio: row.value / peer.value,
    note: `beside ${peer.peer}`,
    verdict: "",
  };
}

function judged(row: Row, peer: Row | undefined): Result {
  const share = row.limit === undefined ? undefined : row.value / row.limit;
  const ratio = peer === undefined ? undefined : row.value / peer.value;
  const wanted = peerBars.find(([pattern]) => pattern.test(row.what))?.[1];
  const { bar } = row;
  const marks: Result["verdict"][] = [];
  // NaN is above every limit.
  if (bar && "most" in bar) marks.push(row.value <= bar.most ? "ok" : "FAILED");
  if (bar && "share" in bar && share !== undefined) marks.push(share >= bar.share ? "ok" : "below");
  if (wanted !== undefined && ratio !== undefined) marks.push(ratio >= wanted ? "ok" : "below");
  const verdict = (["FAILED", "below", "ok"] as const).find((mark) => marks.includes(mark)) ?? "";
  return {
    ...row,
    ...(share === undefined ? {} : { share }),
    ...(peer === undefined ? {} : { peerName: peer.peer as string, peerValue: peer.value }),
    ...(ratio === undefined ? {} : { ratio }),
    verdict,
  };
}

export function table(lines: Line[]): string {
  const head = ["step", "test", "value", "range", "of limit", "peer", "ratio", ""];
  const rows = results(lines).map((r) => [
    r.step,
    r.what + (r.note ? ` (${r.note})` : ""),
    `${figure(r.value)} ${r.unit}`,
    r.range ? `${figure(r.range[0])} .. ${figure(r.range[1])}` : "",
    r.share === undefined ? "" : `${(100 * r.share).toFixed(0)} %`,
    r.peerValue === undefined ? "" : figure(r.peerValue),
    r.ratio === undefined ? "" : r.ratio.toFixed(2),
    r.verdict,
  ]);
  const skipped = lines.flatMap((line) => ("skipped" in line ? [line] : []));
  const width = Math.max(
    ...[head, ...rows, ...skipped.map(({ step }) => [step])].map(([step = ""]) => step.length),
  );
  return [
    ...aligned([head, ...rows]),
    ...skipped.map(
      (line) => `${line.step.padEnd(width)}  ${line.failed ? "FAILED" : "skipped"}: ${line.skipped}`,
    ),
  ].join("\n");
}

async function main(): Promise<number> {
  const option = { type: "string" } as const;
  const options = { rows: option, out: option, doctor: option, device: option, size: option };
  const { values } = parseArgs({ options });
  if (!values.rows || !values.out)
    throw new Error("usage: bun bench/gpu/report.ts --rows ROWS.jsonl --out FILE.json");
  const lines = parseLines(await Bun.file(values.rows).text());
  const git = Bun.which("git") && Bun.spawnSync(["git", "describe", "--always", "--dirty", "--abbrev=12"]);
  const doctor = values.doctor
    ? await Bun.file(values.doctor)
        .json()
        .catch(() => null)
    : null;
  const document = {
    commit: git ? git.stdout.toString().trim() : null,
    date: new Date().toISOString(),
    device: values.device,
    size: values.size,
    doctor,
    bars: judgeBars(results(lines)),
    results: results(lines),
    peers: lines.filter((line) => "peer" in line),
    skipped: lines.filter((line) => "skipped" in line),
  };
  await Bun.write(values.out, `${JSON.stringify(document, null, 2)}\n`);
  console.log(`${table(lines)}\n\n${barTable(document.bars)}`);
  return failed(lines) ? 1 : 0;
}

if (import.meta.main) process.exit(await main());
