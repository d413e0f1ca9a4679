/** A hub on loopback that answers as huggingface.co does: file lists with hashes, redirects of large files to a second
 *  host (another port), ranges, X-Error-Code; and that can be told to misbehave. */
import { createHash } from "node:crypto";

export interface HubFile {
  bytes: Uint8Array;
  /** Large files have a SHA-256 and live on the storage host; small ones have a git blob's SHA-1. */
  lfs: boolean;
}

export interface Misbehaviour {
  /** The next download of this file ends after so many bytes. */
  cut?: { file: string; after: number };
  /** Downloads of this file give other bytes of the same length. */
  corrupt?: string;
  /** Downloads of this file have bytes too many. */
  oversize?: string;
  /** Requests with ranges get the whole file, status 200. */
  ignoreRanges?: boolean;
  /** So many requests for the list are answered with this status first. */
  failures?: { status: number; count: number; headers?: Record<string, string> };
  /** So many requests to the storage host are answered with this status first. */
  storageFailures?: { status: number; count: number };
  /** Replaces the list of files. */
  listing?: unknown;
  /** Large files are redirected to this address. */
  redirect?: string;
}

export interface SeenRequest {
  host: "hub" | "storage";
  path: string;
  authorization: string | null;
  range: string | null;
}

export class StandInHub {
  readonly seen: SeenRequest[] = [];
  misbehaviour: Misbehaviour = {};
  /** null: the model is public. */
  token: string | null = null;
  gated = false;
  readonly commit = "0123456789abcdef0123456789abcdef01234567";
  private readonly storage = this.listen("storage");
  private readonly hub = this.listen("hub");

  constructor(
    readonly model: string,
    readonly files: Record<string, HubFile>,
  ) {}

  get endpoint(): string {
    return `http://127.0.0.1:${this.hub.port}`;
  }

  async stop(): Promise<void> {
    await Promise.all([this.hub.stop(true), this.storage.stop(true)]);
  }

  private listen(host: SeenRequest["host"]) {
    return Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request) => {
        const { pathname } = new URL(request.url);
        const header = (name: string) => request.headers.get(name);
        this.seen.push({
          host,
          path: pathname,
          authorization: header("authorization"),
          range: header("range"),
        });
        const broken = host === "storage" ? this.misbehaviour.storageFailures : undefined;
        if (broken && broken.count-- > 0) return new Response("no", { status: broken.status });
        if (host === "storage") return this.serveFile(decodeURIComponent(pathname.slice(1)), header("range"));
        return this.answer(pathname, header("authorization"), header("range"));
      },
    });
  }

  private answer(path: string, authorization: string | null, range: string | null): Response {
    const { failures } = this.misbehaviour;
    if (failures && failures.count-- > 0)
      return new Response("no", { status: failures.status, headers: failures.headers });
    if (this.token !== null && authorization !== `Bearer ${this.token}`) return refuse(401, "RepoNotFound");
    const list = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/([^/]+)$/.exec(path);
    if (list) return this.list(list[1]!, decodeURIComponent(list[2]!));
    const file = /^\/([^/]+\/[^/]+)\/resolve\/([0-9a-f]{40})\/(.+)$/.exec(path);
    if (!file || file[1] !== this.model || file[2] !== this.commit) return refuse(404, "EntryNotFound");
    if (this.gated) return refuse(403, "GatedRepo");
    const name = decodeURIComponent(file[3]!);
    if (this.files[name]?.lfs !== true) return this.serveFile(name, range);
    const location =
      this.misbehaviour.redirect ?? `http://127.0.0.1:${this.storage.port}/${encodeURIComponent(name)}`;
    return new Response(null, { status: 302, headers: { location } });
  }

  private list(model: string, revision: string): Response {
    if (model !== this.model) return refuse(404, "RepoNotFound");
    if (revision !== "main" && revision !== this.commit) return refuse(404, "RevisionNotFound");
    const siblings = Object.entries(this.files).map(([rfilename, { bytes, lfs }]) => {
      const size = bytes.length;
      const blobId = createHash("sha1").update(`blob ${size}\0`).update(bytes).digest("hex");
      if (!lfs) return { rfilename, size, blobId };
      return {
        rfilename,
        size,
        blobId: "f".repeat(40),
        lfs: { sha256: createHash("sha256").update(bytes).digest("hex"), size, pointerSize: 134 },
      };
    });
    return Response.json(this.misbehaviour.listing ?? { id: model, sha: this.commit, siblings });
  }

  private serveFile(name: string, range: string | null): Response {
    const file = this.files[name];
    if (!file) return refuse(404, "EntryNotFound");
    let { bytes } = file;
    if (this.misbehaviour.corrupt === name)
      bytes = bytes.map((byte, i) => (i === bytes.length >> 1 ? byte ^ 1 : byte));
    if (this.misbehaviour.oversize === name) bytes = Buffer.concat([bytes, bytes]);
    const total = bytes.length;
    const start =
      range === null || this.misbehaviour.ignoreRanges ? 0 : Number(/^bytes=(\d+)-$/.exec(range)![1]);
    if (start > 0 && start >= total)
      return new Response(null, { status: 416, headers: { "content-range": `bytes */${total}` } });
    const body = this.cutShort(name, bytes.subarray(start));
    const headers: Record<string, string> =
      start > 0 ? { "content-range": `bytes ${start}-${total - 1}/${total}` } : {};
    return new Response(body as BodyInit, { status: start > 0 ? 206 : 200, headers });
  }

  private cutShort(name: string, bytes: Uint8Array): Uint8Array | ReadableStream<Uint8Array> {
    const { cut } = this.misbehaviour;
    if (cut?.file !== name) return bytes;
    delete this.misbehaviour.cut;
    return new ReadableStream({
      start(controller) {
        controller.enqueue(bytes.subarray(0, cut.after));
        controller.close();
      },
    });
  }
}

function refuse(status: number, code: string): Response {
  return Response.json({ error: code }, { status, headers: { "x-error-code": code } });
}
