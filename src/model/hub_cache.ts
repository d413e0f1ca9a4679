/** Fetched models on disk: ROOT/models/ORG/COMMIT/MODEL holds files, ROOT/refs/ORG/MODEL/REVISION names the commit.
 *  Always: a directory counts only when its mark lists files that are all there in full length. */
import { Database } from "bun:sqlite";
import { mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

const completeMark = ".complete.json";

/** The copies of one model. Names and revisions have been checked to be fit for paths. */
export class HubCache {
  constructor(
    private readonly root: string,
    private readonly organization: string,
    private readonly model: string,
  ) {}

  /** The model's name stands last, because it names the model in the API. */
  directory(commit: string): string {
    return join(this.root, "models", this.organization, commit, this.model);
  }

  /** The complete copy of a branch, tag or commit as it was last seen; null where there is none. */
  async find(revision: string): Promise<string | null> {
    const commit = isCommit(revision)
      ? revision
      : await readFile(this.reference(revision), "utf8").catch(() => "");
    return isCommit(commit) && (await this.isComplete(commit)) ? this.directory(commit) : null;
  }

  async isComplete(commit: string): Promise<boolean> {
    const directory = this.directory(commit);
    for (const [name, bytes] of await readMark(join(directory, completeMark))) {
      if ((await sizeOf(join(directory, name))) !== bytes) return false;
    }
    return (await sizeOf(join(directory, completeMark))) > 0;
  }

  async markComplete(commit: string, files: readonly { path: string; bytes: number }[]): Promise<void> {
    const list = files.map(({ path, bytes }) => [basename(path), bytes]);
    await writeAtomically(join(this.directory(commit), completeMark), JSON.stringify(list));
  }

  async remember(revision: string, commit: string): Promise<void> {
    if (isCommit(revision)) return;
    await mkdir(dirname(this.reference(revision)), { recursive: true });
    await writeAtomically(this.reference(revision), commit);
  }

  private reference(revision: string): string {
    return join(this.root, "refs", this.organization, this.model, encodeURIComponent(revision));
  }
}

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** Bytes of a file; -1 where there is none. */
export const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    (status) => status.size,
    () => -1,
  );

/** One process at a time. The lock is SQLite's on a small file: the kernel drops it when its holder dies, however it does. */
export async function withLock(
  directory: string,
  onNotice: (sentence: string) => void,
  action: () => Promise<void>,
): Promise<void> {
  const database = new Database(join(directory, ".lock"), { create: true });
  try {
    for (let waited = 0; !tryLock(database); waited++) {
      if (waited === 0) onNotice(`Another process is fetching into ${directory}; waiting for it.`);
      await Bun.sleep(200);
    }
    await action();
  } finally {
    database.close();
  }
}

function tryLock(database: Database): boolean {
  try {
    database.run("begin exclusive");
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === "SQLITE_BUSY") return false;
    throw error;
  }
}

/** Name and size of each file; a name that is never there where the mark is missing or damaged. */
async function readMark(path: string): Promise<[string, number][]> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as [string, number][];
  } catch {
    return [[completeMark, Number.NaN]];
  }
}

async function writeAtomically(path: string, text: string): Promise<void> {
  await writeFile(`${path}.${process.pid}.tmp`, text);
  await rename(`${path}.${process.pid}.tmp`, path);
}
