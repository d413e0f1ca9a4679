/** The database of a study folder, and the study in it that is meant. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import type { Study } from "../../server/study/import_study.ts";
import { openStore, type Store } from "../../store/store.ts";
import { listStudies } from "../../store/studies.ts";
import { UsageError } from "../../util/errors.ts";

export interface StudyDatabaseFlags {
  database?: string;
  study?: string;
}

export function addStudyDatabaseFlags(command: Command): Command {
  return command
    .option("--database <url>", "SQLite file or postgres:// address of the votes (default: DIR/study.db)")
    .option("--study <id>", "which study, where the database holds several");
}

/** The file is the folder's own: a study goes with its votes when the folder is copied. */
export const studyDatabaseUrl = (directory: string, flag?: string): string =>
  flag ?? join(directory, "study.db");

export async function withStudy<T>(
  directory: string,
  flags: StudyDatabaseFlags,
  work: (store: Store, study: Study) => Promise<T>,
): Promise<T> {
  const url = studyDatabaseUrl(directory, flags.database);
  // Opening would make an empty one.
  if (flags.database === undefined && !existsSync(url))
    throw new UsageError(
      `${directory} has no study.db: koala study plan ${directory} makes it from the answers.`,
    );
  const store = await openStore(url);
  try {
    return await work(store, await chosenStudy(store, flags.study));
  } finally {
    await store.close();
  }
}

async function chosenStudy(store: Store, id: string | undefined): Promise<Study> {
  const studies = (await listStudies(store)) as Study[];
  const names = studies.map((study) => `${study.id} (${study.title})`).join(", ");
  if (studies.length === 0) throw new UsageError(`${store.name} holds no study yet.`);
  const found = id === undefined ? studies : studies.filter((study) => study.id === id);
  if (found.length === 1) return found[0]!;
  throw new UsageError(
    id === undefined
      ? `${store.name} holds several studies; name one with --study: ${names}.`
      : `${store.name} holds no study ${id}; there are ${names}.`,
  );
}
