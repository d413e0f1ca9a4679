/** Stages of a long work in a folder: each is done once for the same inputs, and its files are known by their hashes.
 *  Always: a stage's record is written after its files are whole, so that a run killed at any moment does the stage again; a file
 *  that changed since, or inputs that did, make the stage run again. */
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hashFile, hashJson } from "../text/fingerprint.ts";
import type { Json } from "../text/tokenizer_file.ts";

export interface Stage {
  /** Names its record, `stages/<name>.json`. */
  name: string;
  /** Everything that decides the files. */
  inputs: Json;
}

export interface StageRecord {
  /** sha256 of the inputs. */
  inputs: string;
  /** Path within the folder -> sha256. */
  outputs: { [path: string]: string };
}

/** Runs `work` unless it was done for these inputs. `work` returns the paths of its files, within `directory`. */
export async function runStage(
  directory: string,
  { name, inputs }: Stage,
  work: () => Promise<readonly string[]>,
): Promise<StageRecord> {
  const path = join(directory, "stages", `${name}.json`);
  const hash = hashJson(inputs);
  const known = await readRecord(path);
  if (known?.inputs === hash && (await isWhole(directory, known))) return known;
  await rm(path, { force: true });
  const outputs: StageRecord["outputs"] = {};
  for (const file of await work()) outputs[file] = await hashFile(join(directory, file));
  const record = { inputs: hash, outputs };
  await writeWhole(path, `${JSON.stringify(record, null, 2)}\n`);
  return record;
}

/** What later stages name as their input: changes when a file of the stage does. */
export const outputsOf = ({ outputs }: StageRecord): Json => outputs;

/** Appears under its name with all of its bytes, or not at all. */
export async function writeWhole(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(`${path}.new`, "w");
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
}

async function readRecord(path: string): Promise<StageRecord | null> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as StageRecord;
  } catch {
    return null; // never done
  }
}

async function isWhole(directory: string, { outputs }: StageRecord): Promise<boolean> {
  for (const [file, sha256] of Object.entries(outputs)) {
    const found = await hashFile(join(directory, file)).catch(() => null);
    if (found !== sha256) return false;
  }
  return true;
}
