/** The checkpoints of a run: saved by all ranks together, resumed by any number of them.
 *  Always: a folder is called step-N only when every file of it is on disk and hashed; exactly one rank renames it, after
 *  all have written; what dies or fails on the way leaves the checkpoints before it whole. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import type { Communicator } from "../../tensor/communicator.ts";
import type { Device } from "../../tensor/device.ts";
import { UsageError } from "../../util/errors.ts";
import type { StateSlice } from "../flat_state.ts";
import { faultPoint } from "../ranks/fault.ts";
import { synchronise, writeDurably } from "./durable.ts";
import {
  checkpointSteps,
  damaged,
  hashFile,
  type Manifest,
  manifestFile,
  readManifest,
  shardFile,
  stateFile,
  stepDirectory,
} from "./manifest.ts";
import { indexShards, readSlices, writeShard } from "./slices.ts";

/** What a run needs beside its tensors, as JSON: step, seed, recipe, hashes of data, tokenizer and template. */
export interface CheckpointState {
  /** Steps that were taken. */
  step: number;
  [key: string]: unknown;
}

/** A checkpoint could not be written. Those before it are whole and the run may go on. */
export class SaveError extends UsageError {}

type FileEntry = Manifest["files"][string];

export class Checkpoints {
  /** `keep`: how many to keep; older ones are deleted after a save. 0 keeps all. */
  constructor(
    readonly directory: string,
    private readonly device: Device,
    private readonly communicator: Communicator,
    private readonly keep = 0,
  ) {}

  /** Every rank calls it with the slices that it owns. Returns the checkpoint's folder. Where one rank could not write,
   *  every rank throws SaveError. */
  async save(state: CheckpointState, slices: Iterable<StateSlice>): Promise<string> {
    const { step } = state;
    const { rank } = this.communicator;
    const target = join(this.directory, stepDirectory(step));
    const temporary = `${target}.tmp`;
    try {
      await this.together(step, async () => (rank === 0 ? makeEmpty(temporary) : []));
      const shards = await this.together(step, () => this.writeOwnShard(temporary, step, slices));
      faultPoint("before_manifest", step, rank);
      await this.together(step, async () =>
        rank === 0 ? this.finish(temporary, target, state, shards) : [],
      );
      return target;
    } catch (error) {
      if (rank === 0 && error instanceof SaveError) rmSync(temporary, { recursive: true, force: true });
      throw error;
    }
  }

  /** Fills `slices` from the checkpoint of `step` after comparing all its files with its manifest. Every rank calls it;
   *  their number may differ from that which saved. Throws UsageError. */
  async load(step: number, slices: Iterable<StateSlice>): Promise<CheckpointState> {
    const checkpoint = join(this.directory, stepDirectory(step));
    const manifest = readManifest(checkpoint);
    this.verify(checkpoint, manifest, step);
    const files = Object.keys(manifest.files).filter((name) => name.endsWith(".safetensors"));
    const index = await indexShards(files.map((name) => join(checkpoint, name)));
    readSlices(this.device, index, slices);
    return readState(checkpoint);
  }

  /** Each rank hashes some of the files, and all refuse together. */
  private verify(checkpoint: string, manifest: Manifest, step: number): void {
    const { rank, world } = this.communicator;
    const names = Object.keys(manifest.files).sort();
    const wrong = names.findIndex(
      (name, i) => i % world === rank && hashFile(join(checkpoint, name)) !== manifest.files[name]?.sha256,
    );
    const found = this.communicator.exchange(Float64Array.of(wrong), { of: `verdict on checkpoint ${step}` });
    const worst = found.find((index) => index >= 0);
    if (worst !== undefined)
      throw damaged(checkpoint, `the content of ${names[worst]} is not what was written`);
  }

  /** Runs `work` on every rank; returns the numbers of all, by rank, or throws SaveError on all. */
  private async together(step: number, work: () => Promise<number[]>): Promise<number[][]> {
    let failure: unknown = null;
    const numbers = await work().catch((error: unknown) => {
      failure = error;
      return [];
    });
    const row = new Float64Array(1 + entryNumbers);
    row.set([failure === null ? 0 : errnoOf(failure), ...numbers]);
    const all = this.communicator.exchange(row, { of: `checkpoint ${step}` });
    if (failure !== null && !isSystemError(failure)) throw failure;
    const rows = Array.from({ length: this.communicator.world }, (_, rank) => [
      ...all.subarray(rank * row.length, (rank + 1) * row.length),
    ]);
    const failed = rows.findIndex(([errno]) => errno !== 0);
    if (failed >= 0) throw this.saveError(step, failed, rows[failed]?.[0] ?? 0);
    return rows.map(([, ...rest]) => rest);
  }

  private async writeOwnShard(
    temporary: string,
    step: number,
    slices: Iterable<StateSlice>,
  ): Promise<number[]> {
    const { rank, world } = this.communicator;
    const path = join(temporary, shardFile(rank, world));
    const onPiece = () => faultPoint("mid_shard_write", step, rank);
    const { bytes, sha256 } = await writeShard(this.device, path, [...slices], onPiece);
    return entryToNumbers({ bytes, sha256 });
  }

  /** Rank 0, when all shards are on disk. */
  private async finish(
    temporary: string,
    target: string,
    state: CheckpointState,
    shards: number[][],
  ): Promise<number[]> {
    const { step } = state;
    const world = shards.length;
    const files = Object.fromEntries(
      shards.map((numbers, rank) => [shardFile(rank, world), entryFromNumbers(numbers)]),
    );
    const text = `${JSON.stringify(state, null, 1)}\n`;
    writeDurably(join(temporary, stateFile), text);
    files[stateFile] = { bytes: Buffer.byteLength(text), sha256: hashFile(join(temporary, stateFile)) };
    const manifest: Manifest = { format: "koala-training-checkpoint-1", step, world, files };
    writeDurably(join(temporary, manifestFile), `${JSON.stringify(manifest, null, 1)}\n`);
    faultPoint("before_rename", step, 0);
    // Only a damaged or abandoned checkpoint can have this name: a run begins with the newest sound one.
    rmSync(target, { recursive: true, force: true });
    renameSync(temporary, target);
    synchronise(this.directory);
    faultPoint("before_latest", step, 0);
    writeDurably(join(this.directory, "latest"), `${stepDirectory(step)}\n`);
    this.deleteOld();
    return [];
  }

  /** The manifest goes first, so that a half-deleted checkpoint is none. */
  private deleteOld(): void {
    const steps = this.keep > 0 ? checkpointSteps(this.directory).slice(0, -this.keep) : [];
    for (const step of steps) {
      const checkpoint = join(this.directory, stepDirectory(step));
      rmSync(join(checkpoint, manifestFile));
      rmSync(checkpoint, { recursive: true, force: true });
    }
  }

  private saveError(step: number, rank: number, errno: number): SaveError {
    const [name] = Object.entries(constants.errno).find(([, code]) => code === errno) ?? [`error ${errno}`];
    const newest = latestStep(this.directory);
    const rest =
      newest === null ? "there is no earlier one" : `the newest one is whole and of step ${newest}`;
    return new SaveError(
      `The checkpoint of step ${step} could not be written to ${this.directory}: ${reasons[name] ?? "writing failed"} (${name}, rank ${rank}); ${rest}.`,
    );
  }
}

/** Step of the newest finished checkpoint in `directory`; null where there is none. */
export const latestStep = (directory: string): number | null => checkpointSteps(directory).at(-1) ?? null;

/** state.json of a checkpoint folder; its content is compared with the manifest. Throws UsageError. */
export function readState(checkpoint: string): CheckpointState {
  const path = join(checkpoint, stateFile);
  if (hashFile(path) !== readManifest(checkpoint).files[stateFile]?.sha256)
    throw damaged(checkpoint, `the content of ${stateFile} is not what was written`);
  return JSON.parse(readFileSync(path, "utf8")) as CheckpointState;
}

/** An empty folder, and no leftovers of saves that died. */
async function makeEmpty(temporary: string): Promise<number[]> {
  const parent = join(temporary, "..");
  mkdirSync(parent, { recursive: true });
  for (const name of readdirSync(parent))
    if (/^step-\d+\.tmp$/.test(name)) rmSync(join(parent, name), { recursive: true, force: true });
  mkdirSync(temporary);
  return [];
}

const reasons: Record<string, string> = {
  ENOSPC: "no space is left on the device",
  EDQUOT: "the disk quota is used up",
  EFBIG: "a file grew beyond the limit on its size",
  EACCES: "permission was denied",
  EROFS: "the file system is read-only",
  EIO: "the device failed",
  ENOENT: "its folder was removed meanwhile",
};

type SystemError = Error & { errno: number };
const isSystemError = (error: unknown): error is SystemError =>
  error instanceof Error && typeof (error as Partial<SystemError>).errno === "number";
const errnoOf = (error: unknown): number =>
  isSystemError(error) ? Math.abs(error.errno) || constants.errno.EIO : constants.errno.EIO;

/** Size and hash as numbers that ranks can exchange: eight words of 32 bits. */
const entryNumbers = 9;
const entryToNumbers = ({ bytes, sha256 }: FileEntry): number[] => [
  bytes,
  ...Array.from({ length: 8 }, (_, i) => Number.parseInt(sha256.slice(8 * i, 8 * i + 8), 16)),
];
function entryFromNumbers([bytes = 0, ...words]: number[]): FileEntry {
  return { bytes, sha256: words.map((word) => word.toString(16).padStart(8, "0")).join("") };
}
