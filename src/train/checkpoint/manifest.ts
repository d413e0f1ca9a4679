/** What a finished training checkpoint consists of: its files, their sizes and their SHA-256.
 *  Always: a folder step-N without a manifest is no checkpoint; one whose files differ from it is damaged and refused. */
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "../../util/errors.ts";

export const manifestFile = "manifest.json";
export const stateFile = "state.json";

const manifestSchema = z.strictObject({
  format: z.literal("koala-training-checkpoint-1"),
  step: z.int().min(0),
  world: z.int().min(1),
  files: z.record(
    z.string().regex(/^[\w.-]+$/),
    z.strictObject({ bytes: z.int().min(0), sha256: z.string().regex(/^[0-9a-f]{64}$/) }),
  ),
});

export type Manifest = z.infer<typeof manifestSchema>;

export const stepDirectory = (step: number): string => `step-${String(step).padStart(6, "0")}`;
export const shardFile = (rank: number, world: number): string =>
  `rank-${String(rank).padStart(5, "0")}-of-${String(world).padStart(5, "0")}.safetensors`;

/** Steps of the checkpoints in `directory`, ascending: those that were finished. */
export function checkpointSteps(directory: string): number[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .flatMap((name) => (/^step-\d+$/.test(name) ? [Number(name.slice(5))] : []))
    .filter((step) => existsSync(join(directory, stepDirectory(step), manifestFile)))
    .sort((a, b) => a - b);
}

/** Reads the manifest and compares names and sizes; contents are compared by hash. Throws UsageError. */
export function readManifest(checkpoint: string): Manifest {
  const path = join(checkpoint, manifestFile);
  let manifest: Manifest;
  try {
    manifest = manifestSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    const why = (error as Error).message.split("\n").join(" ").slice(0, 200);
    throw damaged(checkpoint, `${manifestFile} cannot be read (${why})`);
  }
  for (const [name, { bytes }] of Object.entries(manifest.files)) {
    const file = join(checkpoint, name);
    if (!existsSync(file)) throw damaged(checkpoint, `${name} is missing`);
    const { size } = statSync(file);
    if (size !== bytes) throw damaged(checkpoint, `${name} has ${size} bytes and should have ${bytes}`);
  }
  return manifest;
}

export function hashFile(path: string): string {
  const hasher = new Bun.CryptoHasher("sha256");
  const piece = new Uint8Array(1 << 22);
  const descriptor = openSync(path, "r");
  try {
    for (let read = readSync(descriptor, piece); read > 0; read = readSync(descriptor, piece))
      hasher.update(piece.subarray(0, read));
  } finally {
    closeSync(descriptor);
  }
  return hasher.digest("hex");
}

export const damaged = (checkpoint: string, what: string): UsageError =>
  new UsageError(
    `The checkpoint ${checkpoint} is damaged: ${what}. Delete that folder to resume from the one before it.`,
  );
