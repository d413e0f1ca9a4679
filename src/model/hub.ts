/** Models of the Hugging Face hub, or of a server that speaks its API, in a cache on disk.
 *  Always: a directory that is handed out holds every file its revision lists and Koala reads, each with the hub's
 *  size and hash; only JSON, templates and safetensors are ever fetched, never pickled weights. */
import { mkdir, statfs } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { UsageError } from "../util/errors.ts";
import { indexFile, readIndex, singleFile } from "./checkpoint.ts";
import { isOutage, notReadable, sentenceFor } from "./hub_errors.ts";
import { HubCache, isCommit, sizeOf, withLock } from "./hub_cache.ts";
import { downloadFile, fetchBytes, type RemoteFile, type Transport } from "./download.ts";

export interface FetchProgress {
  file: string;
  bytesDone: number;
  bytesTotal: number;
  bytesPerSecond: number;
}

export interface FetchOptions {
  /** Default: HF_ENDPOINT, then https://huggingface.co. */
  endpoint?: string;
  /** Default: HF_TOKEN. null: none. */
  token?: string | null;
  /** Default: $HF_HOME/koala, then $XDG_CACHE_HOME/koala, then ~/.cache/koala. */
  cacheDirectory?: string;
  onProgress?: (progress: FetchProgress) => void;
  /** Told what a person should know: that a cached copy is used offline, that another process is fetching, that an
   *  attempt failed and another follows. Default: stderr. */
  onNotice?: (sentence: string) => void;
  attemptsMax?: number;
  retryDelayMs?: number;
  stallMs?: number;
}

/** Does the text look like `org/model` or `org/model@revision`? */
export const isModelName = (text: string): boolean => parseName(text) !== null;

/** Fetches what is missing of `org/model[@revision]` and returns its directory, whose last part is the model's name. */
export async function fetchModel(name: string, options: FetchOptions = {}): Promise<string> {
  const model = parseName(name);
  if (model === null) {
    throw new UsageError(
      `${JSON.stringify(name)} is neither a folder nor the name of a model on the hub, which reads org/model or org/model@revision.`,
    );
  }
  const hub = resolveHub(model, options);
  const cached = await hub.cache.find(hub.revision);
  // A commit never changes, so a complete copy of one needs no question.
  if (cached !== null && isCommit(hub.revision)) return cached;
  try {
    const listing = await listFiles(hub, cached !== null);
    return await completeCopy(hub, listing, options);
  } catch (error) {
    if (cached === null || !isOutage(error)) throw sentenceFor(error, hub);
    (options.onNotice ?? console.error)(
      `${hub.endpoint} cannot be reached (${(error as Error).message}); using the copy of ${name} in ${cached}.`,
    );
    return cached;
  }
}

async function completeCopy(hub: Hub, listing: Listing, options: FetchOptions): Promise<string> {
  const directory = hub.cache.directory(listing.sha);
  await mkdir(directory, { recursive: true }).catch((error: Error) => {
    throw new UsageError(
      `Cannot make the cache folder ${directory}: ${error.message}. Name another with HF_HOME.`,
    );
  });
  if (!(await hub.cache.isComplete(listing.sha))) {
    await withLock(directory, options.onNotice ?? console.error, async () => {
      // Another process may have fetched it while this one waited.
      if (await hub.cache.isComplete(listing.sha)) return;
      const files = await fetchFiles(hub, listing, directory, options.onProgress ?? (() => {}));
      await hub.cache.markComplete(listing.sha, files);
    });
  }
  await hub.cache.remember(hub.revision, listing.sha);
  return directory;
}

interface ModelName {
  organization: string;
  model: string;
  revision: string;
}

/** The hub's rules for names; they also make names fit for paths. */
function parseName(text: string): ModelName | null {
  const match =
    /^([A-Za-z0-9][\w.-]{0,95})\/([A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,200}))?$/.exec(text);
  if (match === null || text.includes("..") || text.includes("//")) return null;
  return { organization: match[1]!, model: match[2]!, revision: match[3] ?? "main" };
}

interface Hub extends ModelName {
  endpoint: string;
  cache: HubCache;
  transport: Transport;
}

function resolveHub(model: ModelName, options: FetchOptions): Hub {
  const { HF_ENDPOINT, HF_TOKEN, HF_HOME, XDG_CACHE_HOME } = process.env;
  const endpoint = (options.endpoint ?? (HF_ENDPOINT || "https://huggingface.co")).replace(/\/+$/, "");
  if (!/^https?:\/\//.test(endpoint) || !URL.canParse(endpoint)) {
    throw new UsageError(
      `HF_ENDPOINT is ${JSON.stringify(endpoint)}, which is not the address of a server, such as https://huggingface.co.`,
    );
  }
  const home = HF_HOME || XDG_CACHE_HOME || join(homedir(), ".cache");
  const transport: Transport = {
    token: options.token === undefined ? HF_TOKEN?.trim() || null : options.token,
    origin: new URL(endpoint).origin,
    attemptsMax: options.attemptsMax ?? 6,
    retryDelayMs: options.retryDelayMs ?? 500,
    stallMs: options.stallMs ?? 60_000,
    onRetry: options.onNotice ?? console.error,
  };
  const cache = new HubCache(options.cacheDirectory ?? join(home, "koala"), model.organization, model.model);
  return { ...model, endpoint, cache, transport };
}

const listingSchema = z.object({
  sha: z.string().regex(/^[0-9a-f]{40}$/),
  siblings: z
    .array(
      z.object({
        rfilename: z.string().max(1024),
        size: z.number().int().nonnegative().optional(),
        blobId: z
          .string()
          .regex(/^[0-9a-f]{40}$/)
          .optional(),
        lfs: z
          .object({ sha256: z.string().regex(/^[0-9a-f]{64}$/), size: z.number().int().nonnegative() })
          .nullish(),
      }),
    )
    .max(20_000),
});
type Listing = z.infer<typeof listingSchema>;

const listingBytesMax = 32 << 20;

/** `impatient`: a copy is at hand, so an outage need not be waited out. */
async function listFiles(hub: Hub, impatient: boolean): Promise<Listing> {
  const { organization, model, revision, endpoint } = hub;
  const url = `${endpoint}/api/models/${organization}/${model}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const transport = impatient
    ? { ...hub.transport, attemptsMax: 1, stallMs: Math.min(hub.transport.stallMs, 10_000) }
    : hub.transport;
  const text = new TextDecoder().decode(await fetchBytes(url, transport, listingBytesMax));
  let listing: Listing;
  try {
    listing = listingSchema.parse(JSON.parse(text));
  } catch {
    throw new UsageError(`${url} does not answer as the hub does, with a list of files. Check HF_ENDPOINT.`);
  }
  const stray = listing.siblings.find(({ rfilename }) => !isPlainPath(rfilename));
  if (stray)
    throw new UsageError(
      `${organization}/${model} lists a file ${JSON.stringify(stray.rfilename)}, which points out of its folder. Nothing was fetched.`,
    );
  return listing;
}

const isPlainPath = (path: string): boolean =>
  path !== "" &&
  !/[\\\0]/.test(path) &&
  path.split("/").every((part) => part !== "" && part !== "." && part !== "..");

/** What a served model needs besides its weights. Files that a model lacks are simply not listed. */
const smallFiles = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  indexFile,
];
const smallBytesMax = 256 << 20;

/** Small files first: the index among them says which weights there are. */
async function fetchFiles(
  hub: Hub,
  listing: Listing,
  directory: string,
  onProgress: (progress: FetchProgress) => void,
): Promise<RemoteFile[]> {
  const listed = new Map(listing.siblings.map((file) => [file.rfilename, file]));
  const hasWeights = listed.has(singleFile) || listed.has(indexFile);
  if (!listed.has("config.json") || !hasWeights) throw notReadable(hub, [...listed.keys()]);
  const remote = (name: string) => remoteFile(hub, listing, directory, listed.get(name), name);
  const small = smallFiles
    .filter((name) => listed.has(name) && !(name === indexFile && listed.has(singleFile)))
    .map(remote);
  for (const { path, bytes } of small) {
    if (bytes > smallBytesMax)
      throw new UsageError(`${path} would have ${bytes} bytes, which no such file has. Nothing was fetched.`);
  }
  await fetchAll(small, hub.transport, directory, () => {});
  const weights = listed.has(singleFile)
    ? [singleFile]
    : [...new Set((await readIndex(join(directory, indexFile))).values())].sort();
  const files = [...small, ...weights.map(remote)];
  await fetchAll(files, hub.transport, directory, onProgress);
  return files;
}

function remoteFile(
  hub: Hub,
  listing: Listing,
  directory: string,
  file: Listing["siblings"][number] | undefined,
  name: string,
): RemoteFile {
  const id = `${hub.organization}/${hub.model}`;
  if (file === undefined)
    throw new UsageError(
      `${id} has an index that names ${name}, but no such file. Choose another revision with ${id}@REVISION.`,
    );
  const bytes = file.lfs?.size ?? file.size;
  const hash = file.lfs
    ? ({ kind: "sha256", hex: file.lfs.sha256 } as const)
    : file.blobId
      ? ({ kind: "git", hex: file.blobId } as const)
      : null;
  if (bytes === undefined || hash === null)
    throw new UsageError(
      `${hub.endpoint} gives no size and hash for ${name} of ${id}, so it could not be checked. Nothing was fetched.`,
    );
  const url = `${hub.endpoint}/${id}/resolve/${listing.sha}/${name}`;
  return { url, path: join(directory, name), bytes, hash };
}

async function fetchAll(
  files: RemoteFile[],
  transport: Transport,
  directory: string,
  onProgress: (progress: FetchProgress) => void,
): Promise<void> {
  const missing: RemoteFile[] = [];
  for (const file of files) if ((await sizeOf(file.path)) !== file.bytes) missing.push(file);
  const bytesTotal = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let finished = bytesTotal - missing.reduce((sum, { bytes }) => sum + bytes, 0);
  await checkRoom(missing, directory);
  const rate = new Rate();
  for (const file of missing) {
    const name = file.path.slice(directory.length + 1);
    await downloadFile(file, transport, (bytes) => {
      const bytesDone = finished + bytes;
      onProgress({ file: name, bytesDone, bytesTotal, bytesPerSecond: rate.at(bytesDone) });
    });
    finished += file.bytes;
  }
}

/** Bytes a second over the last few seconds. */
class Rate {
  private marks: { time: number; bytes: number }[] = [];
  at(bytes: number): number {
    const time = performance.now();
    const last = this.marks.at(-1);
    if (last === undefined || time - last.time > 250 || bytes < last.bytes) this.marks.push({ time, bytes });
    if (this.marks.length > 20) this.marks.shift();
    const first = this.marks[0]!;
    return time > first.time ? Math.max(0, ((bytes - first.bytes) * 1000) / (time - first.time)) : 0;
  }
}

async function checkRoom(files: RemoteFile[], directory: string): Promise<void> {
  let needed = 0;
  for (const { path, bytes } of files)
    needed += Math.max(0, bytes - Math.max(0, await sizeOf(`${path}.part`)));
  const { bavail, bsize } = await statfs(directory);
  if (needed <= bavail * bsize) return;
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  throw new UsageError(
    `${directory} has ${gigabytes(bavail * bsize)} left, and ${gigabytes(needed)} are still to be fetched. Make room or name another cache folder with HF_HOME.`,
  );
}
