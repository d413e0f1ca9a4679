/** One file from a web server to disk, whatever happens on the way.
 *  Always: the file appears under its name only with the announced size and hash. Until then its bytes lie in
 *  NAME.part, and the next attempt, or the next run, asks for the rest only. The token is sent to one origin alone. */
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { basename } from "node:path";
import { UsageError } from "../util/errors.ts";

export interface RemoteFile {
  url: string;
  /** Where it shall lie. */
  path: string;
  bytes: number;
  /** "git": SHA-1 of a git blob, which is what the hub knows of small files. */
  hash: { kind: "sha256" | "git"; hex: string };
}

export interface Transport {
  /** Sent as a bearer token to `origin` and nowhere else. */
  token: string | null;
  origin: string;
  /** Failures in a row, without a byte in between, before giving up. */
  attemptsMax: number;
  /** Doubles with each failure in a row. */
  retryDelayMs: number;
  /** A connection that is silent for so long counts as cut. */
  stallMs: number;
  /** Told before each pause that another attempt follows. */
  onRetry: (sentence: string) => void;
}

/** The server answered, but not with what was asked for. `code`: the hub's X-Error-Code. */
export class HttpError extends Error {
  override name = "HttpError";
  constructor(
    readonly status: number,
    readonly code: string,
    readonly host: string,
    readonly retryAfterMs: number | null,
  ) {
    super(`${host} answered with status ${status}${code === "" ? "" : ` (${code})`}`);
  }
}

/** Nobody answered, or the connection broke. */
export class NetworkError extends Error {
  override name = "NetworkError";
}

/** Fetches one file. `onBytes` is told how many bytes of it are on disk. */
export async function downloadFile(
  file: RemoteFile,
  transport: Transport,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const part = `${file.path}.part`;
  await persist(
    transport,
    () => fetchRest(file, part, transport, onBytes),
    () => sizeOf(part),
  );
  if ((await hashOf(part, file)) !== file.hash.hex) {
    await rm(part, { force: true });
    throw new UsageError(
      `${basename(file.path)} arrived damaged from ${new URL(file.url).host}: its hash is not the announced one. It was removed; run the same command again.`,
    );
  }
  await rename(part, file.path);
}

/** Tries again, with longer and longer pauses, what fails for reasons that pass. `progress`: grows when an attempt got somewhere. */
export async function persist<T>(
  transport: Transport,
  attempt: () => Promise<T>,
  progress: () => Promise<number>,
): Promise<T> {
  for (let failures = 0; ;) {
    const before = await progress();
    try {
      return await attempt();
    } catch (error) {
      if (!isPassing(error, transport)) throw error;
      failures = (await progress()) > before ? 1 : failures + 1;
      if (failures >= transport.attemptsMax) throw error;
      const asked = error instanceof HttpError ? error.retryAfterMs : null;
      const pause = Math.min(asked ?? transport.retryDelayMs * 2 ** (failures - 1), 60_000);
      transport.onRetry(retryText(error as Error, pause, `${failures + 1} of ${transport.attemptsMax}`));
      await Bun.sleep(pause);
    }
  }
}

const retryText = ({ message }: Error, pauseMs: number, attempt: string): string =>
  `${message.replace(/\.$/, "")}; attempt ${attempt} follows in ${(pauseMs / 1000).toFixed(1)} s.`;

/** Storage hosts answer 403 when the signature of a redirect has run out; the next attempt gets a new one. */
function isPassing(error: unknown, transport: Transport): boolean {
  if (error instanceof NetworkError) return true;
  if (!(error instanceof HttpError)) return false;
  const { status, host } = error;
  return (
    status === 408 ||
    status === 429 ||
    status >= 500 ||
    (status === 403 && host !== new URL(transport.origin).host)
  );
}

async function fetchRest(
  file: RemoteFile,
  part: string,
  transport: Transport,
  onBytes: (bytes: number) => void,
): Promise<void> {
  let offset = await sizeOf(part);
  if (offset > file.bytes) await rm(part, { force: true });
  if (offset > file.bytes) offset = 0;
  onBytes(offset);
  if (offset === file.bytes && offset > 0) return;
  const headers: Record<string, string> = offset > 0 ? { range: `bytes=${offset}-` } : {};
  await withConnection(file.url, transport, headers, async (response, alive) => {
    // A server that ignores the range sends the file from its start.
    if (response.status === 200) offset = 0;
    else if (
      response.status !== 206 ||
      !response.headers.get("content-range")?.startsWith(`bytes ${offset}-`)
    ) {
      await rm(part, { force: true });
      throw new NetworkError(
        `${new URL(file.url).host} answered a request for the rest of a file with status ${response.status}`,
      );
    }
    const handle = await open(part, offset === 0 ? "w" : "a");
    try {
      for await (const chunk of response.body ?? []) {
        alive();
        offset += chunk.length;
        if (offset > file.bytes) break;
        await append(handle, chunk, file.path);
        onBytes(offset);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
  });
  if (offset < file.bytes)
    throw new NetworkError(`the connection ended after ${offset} of ${file.bytes} bytes`);
  if (offset > file.bytes) {
    await rm(part, { force: true });
    throw new UsageError(
      `${new URL(file.url).host} sends more than the ${file.bytes} bytes that it announced for ${basename(file.path)}. Nothing was kept.`,
    );
  }
}

async function append(handle: FileHandle, chunk: Uint8Array, path: string): Promise<void> {
  try {
    for (let done = 0; done < chunk.length;) done += (await handle.write(chunk, done)).bytesWritten;
  } catch (error) {
    throw new UsageError(
      `Cannot write ${path}: ${(error as Error).message}. Make room or name another cache folder with HF_HOME.`,
    );
  }
}

/** The whole body of a small answer, refused beyond `bytesMax`. */
export async function fetchBytes(url: string, transport: Transport, bytesMax: number): Promise<Uint8Array> {
  const attempt = () =>
    withConnection(url, transport, {}, async (response, alive) => {
      const pieces: Uint8Array[] = [];
      let bytes = 0;
      for await (const chunk of response.body ?? []) {
        alive();
        bytes += chunk.length;
        if (bytes > bytesMax)
          throw new UsageError(
            `${url} answers with more than ${bytesMax} bytes, which is not a model's file list.`,
          );
        pieces.push(chunk);
      }
      return Buffer.concat(pieces);
    });
  return persist(transport, attempt, async () => 0);
}

/** Opens a connection, gives up when it falls silent, and turns whatever breaks it into a NetworkError. */
async function withConnection<T>(
  url: string,
  transport: Transport,
  headers: Record<string, string>,
  use: (response: Response, alive: () => void) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const silent = () =>
    controller.abort(new NetworkError(`${new URL(url).host} was silent for ${transport.stallMs / 1000} s`));
  let timer = setTimeout(silent, transport.stallMs);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(silent, transport.stallMs);
  };
  try {
    return await use(await follow(url, transport, headers, controller.signal), alive);
  } catch (error) {
    if (error instanceof UsageError || error instanceof HttpError || error instanceof NetworkError)
      throw error;
    const reason = controller.signal.aborted ? controller.signal.reason : error;
    throw reason instanceof NetworkError
      ? reason
      : new NetworkError(`${new URL(url).host}: ${(error as Error).message}`);
  } finally {
    clearTimeout(timer);
    controller.abort(); // what is left of the body is not wanted
  }
}

/** Follows redirects by hand: they lead to storage hosts, which must not see the token. */
async function follow(
  url: string,
  transport: Transport,
  headers: Record<string, string>,
  signal: AbortSignal,
): Promise<Response> {
  let target = new URL(url);
  for (let hops = 0; hops < 10; hops++) {
    // identity: a compressed body would make nonsense of ranges and announced sizes.
    const sent = new Headers({ "user-agent": "koala", "accept-encoding": "identity", ...headers });
    if (transport.token !== null && target.origin === transport.origin) {
      sent.set("authorization", `Bearer ${transport.token}`);
    }
    const response = await fetch(target.href, { headers: sent, redirect: "manual", signal });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || location === null) {
      if (response.ok) return response;
      throw new HttpError(
        response.status,
        response.headers.get("x-error-code") ?? "",
        target.host,
        retryAfter(response),
      );
    }
    const next = new URL(location, target);
    const isSafe = next.protocol === "https:" || (next.protocol === "http:" && target.protocol === "http:");
    if (!isSafe)
      throw new UsageError(
        `${target.host} redirects to ${next.protocol}//${next.host}, which is not followed.`,
      );
    target = next;
  }
  throw new UsageError(`${new URL(url).host} redirects more than ten times for ${new URL(url).pathname}.`);
}

function retryAfter(response: Response): number | null {
  const value = response.headers.get("retry-after");
  if (value === null) return null;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds * 1000) : null;
}

async function hashOf(path: string, { hash, bytes }: RemoteFile): Promise<string> {
  const digest: Hash = createHash(hash.kind === "git" ? "sha1" : "sha256");
  if (hash.kind === "git") digest.update(`blob ${bytes}\0`);
  for await (const chunk of Bun.file(path).stream()) digest.update(chunk);
  return digest.digest("hex");
}

const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    (status) => status.size,
    () => 0,
  );
