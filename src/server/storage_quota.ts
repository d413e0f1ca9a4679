/** How many bytes the data directory may hold: files, parts of uploads, and what jobs make.
 *  Always: bytes that are still on their way count already, so that uploads side by side cannot pass the limit together. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { RequestError } from "../util/errors.ts";
import { bytesText } from "../util/progress.ts";

/** Of the data directory; everything else in it is the operator's. */
const counted = ["files", "parts", "jobs"];

export class StorageQuota {
  #used = 0;
  #onTheWay = 0;

  constructor(
    private readonly directory: string,
    /** null: as much as the disk holds. */
    readonly bytesMax: number | null,
  ) {}

  /** Room for bytes that come piece by piece. `freed`: bytes that will go when these are there. */
  async open(freed = 0): Promise<Allowance> {
    if (this.bytesMax === null) return { take: () => {}, close: () => {} };
    this.#used = await usedBytes(this.directory);
    let taken = 0;
    const take = (bytes: number): void => {
      if (this.#used + this.#onTheWay + bytes - Math.min(freed, taken + bytes) > this.bytesMax!)
        throw this.#full(taken);
      taken += bytes;
      this.#onTheWay += bytes;
    };
    const close = (kept: boolean): void => {
      this.#onTheWay -= taken;
      if (kept) this.#used += taken;
    };
    return { take, close };
  }

  /** Throws where nothing more may come. */
  async check(): Promise<void> {
    const allowance = await this.open();
    allowance.take(1);
    allowance.close(false);
  }

  /** `own`: bytes of what is refused, which will not be kept. */
  #full(own: number): RequestError {
    const [used, allowed] = [this.#used + this.#onTheWay - own, this.bytesMax!];
    return new RequestError(
      `This does not fit into the server's storage: ${used} of ${allowed} bytes (${bytesText(used)} of ${bytesText(allowed)}) are used. Delete files or tuned models, or raise --max-storage.`,
      { status: 413, code: "storage_quota_exceeded" },
    );
  }
}

export interface Allowance {
  /** Throws RequestError where the limit would be passed. */
  take(bytes: number): void;
  close(kept: boolean): void;
}

/** What lies under the counted folders; bytes with several names count once, those of unfinished uploads where they come. */
export async function usedBytes(directory: string): Promise<number> {
  const seen = new Set<number>();
  let bytes = 0;
  for (const folder of counted) {
    const options = { recursive: true, withFileTypes: true } as const;
    for (const entry of await readdir(join(directory, folder), options).catch(() => [])) {
      if (!entry.isFile() || (folder !== "jobs" && entry.name.endsWith(".tmp"))) continue;
      // Gone in the meantime: jobs write and delete while this counts.
      const info = await stat(join(entry.parentPath, entry.name)).catch(() => null);
      if (info === null || seen.has(info.ino)) continue;
      seen.add(info.ino);
      bytes += info.size;
    }
  }
  return bytes;
}
