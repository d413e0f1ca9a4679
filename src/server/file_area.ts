/** The folder under which the bytes of files lie: `files/` by file id, `parts/` by part id.
 *  Always: what has its final name is whole and on disk; bytes that no row knows are temporary and are swept away. */
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { RequestError } from "../util/errors.ts";
import { StorageQuota } from "./storage_quota.ts";

export class FileArea {
  readonly quota: StorageQuota;

  /** `bytesMax`: of everything that the API keeps under `directory`; null: as much as the disk holds. */
  constructor(
    readonly directory: string,
    bytesMax: number | null = null,
  ) {
    this.quota = new StorageQuota(directory, bytesMax);
  }

  path(id: string): string {
    return join(this.directory, id.startsWith("part_") ? "parts" : "files", id);
  }

  /** What `produce` writes becomes the bytes of `id`, or nothing does. `freed`: bytes that go when these are there.
   *  Throws RequestError where the quota or the disk is full. */
  async write<T>(
    id: string,
    produce: (write: (piece: Uint8Array) => Promise<void>) => Promise<T>,
    { freed = 0 }: { freed?: number } = {},
  ): Promise<T> {
    const path = this.path(id);
    const temporary = `${path}.tmp`;
    const allowance = await this.quota.open(freed);
    let kept = false;
    try {
      await mkdir(join(path, ".."), { recursive: true, mode: 0o700 });
      const handle = await open(temporary, "wx", 0o600);
      let result: T;
      try {
        result = await produce((piece) => (allowance.take(piece.length), writeAll(handle, piece)));
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, path);
      kept = true;
      return result;
    } catch (error) {
      await rm(temporary, { force: true });
      throw withoutSpace(error);
    } finally {
      allowance.close(kept);
    }
  }

  /** The bytes of the parts one after another; size and MD5 of the whole. */
  async join(id: string, partIds: readonly string[]): Promise<{ bytes: number; md5: string }> {
    const md5 = createHash("md5");
    let bytes = 0;
    const copy = async (write: (piece: Uint8Array) => Promise<void>) => {
      for (const part of partIds)
        for await (const piece of Bun.file(this.path(part)).stream()) {
          md5.update(piece);
          bytes += piece.length;
          await write(piece);
        }
    };
    // The parts go when the file is there.
    const freed = partIds.reduce((sum, part) => sum + Bun.file(this.path(part)).size, 0);
    await this.write(id, copy, { freed });
    return { bytes, md5: md5.digest("hex") };
  }

  async remove(id: string): Promise<void> {
    await rm(this.path(id), { force: true });
  }

  /** Names in `files/` and `parts/` that are older than a day: where no row knows them, nobody ever will. */
  async oldNames(now: number): Promise<string[]> {
    const found: string[] = [];
    for (const folder of ["files", "parts"]) {
      const names = await readdir(join(this.directory, folder)).catch(() => []);
      for (const name of names) {
        // Nothing but what was named here: whoever names a folder of their own shall not lose what is in it.
        if (!/^(file-|part_)[0-9A-Za-z]{24}(\.tmp)?$/.test(name)) continue;
        const info = await stat(join(this.directory, folder, name)).catch(() => null);
        if (info && now - info.mtimeMs > 86_400_000) found.push(name);
      }
    }
    return found;
  }
}

async function writeAll(handle: FileHandle, piece: Uint8Array): Promise<void> {
  for (let done = 0; done < piece.length;) done += (await handle.write(piece, done)).bytesWritten;
}

/** 507 where the system had no room: the disk, the user's quota, or the largest size of a file. Else `error` as it is. */
export function withoutSpace(error: unknown): unknown {
  const code = String((error as { code?: string }).code);
  if (!["ENOSPC", "EDQUOT", "EFBIG"].includes(code)) return error;
  const message = `There is no space left for this file on the server (${code}); nothing of it was kept. Delete files or tuned models, then try again.`;
  return new RequestError(message, {
    status: 507,
    type: "server_error",
    code: "no_space",
  });
}
