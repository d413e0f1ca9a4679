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
}

/** How a rank says what it does next. */
export type ReportPhase = (step: number, phase: Phase, block?: string) => void;

export interface Heartbeat {
  report: ReportPhase;
  /** Whether the rank is in a collective. */
  wait(waits: boolean): void;
}

/** A record: beats, time, step, phase, waits and the length of the block's name as float64, then the name. */
const fields = 6;
const recordBytes = 96;

/** Makes the page: zeros in a file at `path`. */
export function createHeartbeats(path: string, world: number): void {
  writeFileSync(path, new Uint8Array(world * recordBytes));
}

/** How rank `rank` beats; nothing happens where no supervisor made a page. */
export function openHeartbeat(path: string | undefined, rank: number): Heartbeat {
  if (path === undefined) return { report: () => {}, wait: () => {} };
  const { numbers, name } = recordOf(Bun.mmap(path, { shared: true }), rank);
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
    wait: (waits) => {
      numbers[4] = waits ? 1 : 0;
      beat();
    },
  };
}

/** Reads the records of all ranks, as they are now. */
export function readHeartbeats(path: string): () => Beat[] {
  const page = Bun.mmap(path, { shared: true });
  return () =>
    Array.from({ length: page.length / recordBytes }, (_, rank) => {
      const { numbers, name } = recordOf(page, rank);
      const [beats = 0, at = 0, step = 0, phase = 0, waits = 0, length = 0] = numbers;
      const block = new TextDecoder().decode(name.subarray(0, length));
      return { beats, at, step, phase: phases[phase] ?? "start", block, waits: waits !== 0 };
    });
}

function recordOf(page: Uint8Array, rank: number) {
  const begin = page.byteOffset + rank * recordBytes;
  return {
    numbers: new Float64Array(page.buffer, begin, fields),
    name: new Uint8Array(page.buffer, begin + fields * 8, recordBytes - fields * 8),
  };
}
