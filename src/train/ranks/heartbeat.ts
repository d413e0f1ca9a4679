/** One page of shared memory in which every rank writes what it does and the supervisor reads it: a few stores a beat, no
 *  system call, and the last entry outlives the rank that wrote it.
 *  Always: a rank writes its own record only. */
import { writeFileSync } from "node:fs";

export const phases = [
  "start",
  "load",
  "data",
  "forward",
  "backward",
  "reduce",
  "sum",
  "adamw",
  "gather",
  "save",
  "end",
] as const;
export type Phase = (typeof phases)[number];

export interface Beat {
  /** Counts up; 0: the rank has not spoken yet. */
  beats: number;
  /** Milliseconds since 1970, by the rank's clock. */
  at: number;
  step: number;
  phase: Phase;
  /** Block of the model, as "layer 3"; empty where the phase concerns all. */
  block: string;
  /** In a collective: others may be what it waits for. */
  waits: boolean;
  /** Symbol of the native op or collective that began last, and whether it still runs; null before the first. */
  op: { symbol: string; runs: boolean } | null;
}

/** How a rank says what it does next. */
export type ReportPhase = (step: number, phase: Phase, block?: string) => void;

export interface Heartbeat {
  report: ReportPhase;
  /** Which collective the rank waits for; null: none any more. */
  wait(symbol: string | null): void;
  /** Where the device writes which op it runs (koala_device_record); null where no supervisor made a page. */
  ops: Uint8Array | null;
}

/** A record: beats, time, step, phase, waits and the length of the block's name as float64, then the name; then what the
 *  device runs: whether it does as float64, and the symbol up to a NUL. */
const fields = 6;
const opBegin = 96;
const opBytes = 64;
const recordBytes = opBegin + opBytes;

/** Makes the page: zeros in a file at `path`. */
export function createHeartbeats(path: string, world: number): void {
  writeFileSync(path, new Uint8Array(world * recordBytes));
}

/** How rank `rank` beats; nothing happens where no supervisor made a page. */
export function openHeartbeat(path: string | undefined, rank: number): Heartbeat {
  if (path === undefined) return { report: () => {}, wait: () => {}, ops: null };
  const { numbers, name, op } = recordOf(Bun.mmap(path, { shared: true }), rank);
  const encoder = new TextEncoder();
  const beat = () => {
    numbers[1] = Date.now();
    numbers[0] = (numbers[0] as number) + 1;
  };
  return {
    report: (step, phase, block = "") => {
      numbers[2] = step;
      numbers[3] = phases.indexOf(phase);
      numbers[5] = encoder.encodeInto(block, name).written;
      beat();
    },
    wait: (symbol) => {
      numbers[4] = symbol === null ? 0 : 1;
      if (symbol !== null) op.symbol[encoder.encodeInto(symbol, op.symbol).written] = 0;
      op.runs[0] = numbers[4];
      beat();
    },
    ops: op.record,
  };
}

/** Reads the records of all ranks, as they are now. */
export function readHeartbeats(path: string): () => Beat[] {
  const page = Bun.mmap(path, { shared: true });
  return () =>
    Array.from({ length: page.length / recordBytes }, (_, rank) => {
      const { numbers, name, op } = recordOf(page, rank);
      const [beats = 0, at = 0, step = 0, phase = 0, waits = 0, length = 0] = numbers;
      const block = new TextDecoder().decode(name.subarray(0, length));
      const symbol = new TextDecoder().decode(op.symbol.subarray(0, op.symbol.indexOf(0)));
      return {
        beats,
        at,
        step,
        phase: phases[phase] ?? "start",
        block,
        waits: waits !== 0,
        op: symbol === "" ? null : { symbol, runs: op.runs[0] === 1 },
      };
    });
}

function recordOf(page: Uint8Array, rank: number) {
  const begin = page.byteOffset + rank * recordBytes;
  return {
    numbers: new Float64Array(page.buffer, begin, fields),
    name: new Uint8Array(page.buffer, begin + fields * 8, opBegin - fields * 8),
    op: {
      record: new Uint8Array(page.buffer, begin + opBegin, opBytes),
      runs: new Float64Array(page.buffer, begin + opBegin, 1),
      symbol: new Uint8Array(page.buffer, begin + opBegin + 8, opBytes - 8),
    },
  };
}
