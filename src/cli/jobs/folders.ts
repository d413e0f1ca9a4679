/** Where a job's things lie under the data directory. The names are relative, so that the directory can be moved.
 *    files/, parts/            bytes of the API's files
 *    jobs/ID/training_file/    the data under its own name (a link to files/)
 *    jobs/ID/run/              recipe's output: data, checkpoints, metrics.jsonl, TensorBoard's events
 *    jobs/ID/models/           what is served: final, step-N; of LoRA jobs adapter/ in PEFT's layout inside */
import { link, mkdir, readdir, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { hasCode } from "../../store/errors.ts";
import { builtinTemplates } from "../../text/template.ts";

export const jobFolder = (jobId: string): string => join("jobs", jobId);
export const runFolder = (jobId: string): string => join(jobFolder(jobId), "run");
export const modelFolder = (jobId: string, name: string): string => join(jobFolder(jobId), "models", name);

/** `kind`: training_file or validation_file. */
export const inputFolder = (jobId: string, kind: string): string => join(jobFolder(jobId), kind);

/** The same bytes under a second name: deleting the first does not touch them. Copied where the file system cannot link. */
export async function linkFile(from: string, to: string): Promise<void> {
  await mkdir(join(to, ".."), { recursive: true, mode: 0o700 });
  try {
    await link(from, to);
  } catch (error) {
    if (!hasCode(error, "EPERM") && !hasCode(error, "EMLINK") && !hasCode(error, "EXDEV")) throw error;
    await Bun.write(to, Bun.file(from));
  }
}

/** The one file of an input folder; null where there is none. */
export async function inputFile(dataDirectory: string, jobId: string, kind: string): Promise<string | null> {
  const folder = join(dataDirectory, inputFolder(jobId, kind));
  const [name] = await readdir(folder).catch(() => []);
  return name === undefined ? null : join(folder, name);
}

/** Nothing of a job that ended is needed any more but its models and its record of metrics. */
export async function removeWorkingFiles(dataDirectory: string, jobId: string): Promise<void> {
  const remove = (...path: string[]) => rm(join(dataDirectory, ...path), { recursive: true, force: true });
  for (const kind of ["training_file", "validation_file"]) await remove(inputFolder(jobId, kind));
  for (const part of ["data", "checkpoints", "model"]) await remove(runFolder(jobId), part);
}

/** A template's name that means the same in another folder. */
export const portableTemplate = (name: string): string =>
  builtinTemplates.includes(name) ? name : resolve(name);
