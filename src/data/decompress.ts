/** The bytes of a file, decompressed by its ending (.gz, .zst).
 *  Always: what stands before a truncation or a fault comes out first, then the error; a few MiB are held at most. */
import { createReadStream } from "node:fs";
import type { Transform } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { ZstdFrames } from "./zstd_frames.ts";

/** `onBytes` is called with the bytes of the file itself. Errors are those of the file system and of zlib, with a `code`. */
export async function* fileBytes(
  path: string,
  onBytes?: (bytesRead: number) => void,
): AsyncGenerator<Uint8Array> {
  const file = readChunks(path, onBytes);
  if (/\.gz$/i.test(path)) yield* decompressed(file, createGunzip());
  else if (/\.zst$/i.test(path)) yield* zstdDecompressed(file);
  else yield* file;
}

async function* zstdDecompressed(file: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const frames = new ZstdFrames();
  const watched = async function* (): AsyncGenerator<Uint8Array> {
    for await (const chunk of file) {
      frames.push(chunk);
      yield chunk;
    }
  };
  yield* decompressed(watched(), createZstdDecompress());
  if (!frames.complete) throw Object.assign(new Error("unexpected end of file"), { code: "Z_BUF_ERROR" });
}

async function* readChunks(path: string, onBytes?: (bytesRead: number) => void): AsyncGenerator<Uint8Array> {
  let bytesRead = 0;
  for await (const chunk of createReadStream(path, {
    highWaterMark: chunkBytes,
  }) as AsyncIterable<Uint8Array>) {
    onBytes?.((bytesRead += chunk.length));
    yield chunk;
  }
}

const chunkBytes = 2 ** 18;
const pieceBytes = 2 ** 15;
const queuedBytesMax = 2 ** 23;

/** A pipeline would throw away what its last stream still holds when an error comes, and at a truncation that is the end of
 *  the file. Here the input goes on only when the output is taken, so no error can come between. */
async function* decompressed(file: AsyncIterable<Uint8Array>, stream: Transform): AsyncGenerator<Uint8Array> {
  const output = new Output(stream);
  try {
    for await (const chunk of file) {
      for (let at = 0; at < chunk.length; at += pieceBytes) {
        let written = false;
        stream.write(chunk.subarray(at, at + pieceBytes), () => {
          written = true;
          output.wake();
        });
        yield* output.until(() => written);
      }
    }
    stream.end();
    yield* output.until(() => output.ended);
  } finally {
    stream.destroy();
  }
}

class Output {
  ended = false;
  wake = (): void => {};
  private queue: Uint8Array[] = [];
  private queuedBytes = 0;
  private error: Error | null = null;

  constructor(private readonly stream: Transform) {
    stream.on("data", (bytes: Uint8Array) => {
      this.queue.push(bytes);
      this.queuedBytes += bytes.length;
      if (this.queuedBytes > queuedBytesMax) stream.pause();
      this.wake();
    });
    stream.on("end", () => {
      this.ended = true;
      this.wake();
    });
    stream.on("error", (error) => {
      this.error = error;
      this.wake();
    });
  }

  async *until(done: () => boolean): AsyncGenerator<Uint8Array> {
    for (;;) {
      const bytes = this.queue.shift();
      if (bytes) {
        this.queuedBytes -= bytes.length;
        yield bytes;
      } else if (this.error) throw this.error;
      else if (done()) return;
      else {
        const event = new Promise<void>((resolve) => (this.wake = resolve));
        if (this.stream.isPaused()) this.stream.resume();
        await event;
      }
    }
  }
}
