/** Files of JSON lines of any length, written and read without holding them in memory.
 *  Always: a line ends at a line feed and nowhere else: JSON may hold other separators of lines (U+2028) as they are. */
import { createReadStream, createWriteStream, type WriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { once } from "node:events";
import { dirname } from "node:path";
import { finished } from "node:stream/promises";
import { UsageError } from "../util/errors.ts";

export class LineWriter {
  lines = 0;

  private constructor(
    private readonly file: WriteStream,
    private readonly written: Promise<void>,
  ) {}

  /** Makes the file's folder where there is none; an older file is replaced. */
  static async open(path: string): Promise<LineWriter> {
    await mkdir(dirname(path), { recursive: true });
    const file = createWriteStream(path, { highWaterMark: 2 ** 20 });
    const written = finished(file);
    // A full disk may be told between two writes; `close` throws it.
    written.catch(() => {});
    return new LineWriter(file, written);
  }

  async write(value: unknown): Promise<void> {
    await this.writeText(JSON.stringify(value));
  }

  /** One line that is JSON already. */
  async writeText(line: string): Promise<void> {
    this.lines++;
    if (!this.file.write(`${line}\n`)) await Promise.race([once(this.file, "drain"), this.written]);
  }

  async close(): Promise<void> {
    this.file.end();
    await this.written;
  }
}

/** The lines as text. */
export async function* textLines(path: string): AsyncGenerator<string> {
  let rest = Buffer.alloc(0);
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    let bytes = rest.length > 0 ? Buffer.concat([rest, chunk as Buffer]) : (chunk as Buffer);
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10)) {
      yield bytes.toString("utf8", 0, end);
      bytes = bytes.subarray(end + 1);
    }
    rest = Buffer.from(bytes);
  }
  if (rest.length > 0) yield rest.toString();
}

/** The lines as values. Throws a SyntaxError where a line is no JSON: for files that we wrote. */
export async function* readLines<T>(path: string): AsyncGenerator<T> {
  let number = 0;
  for await (const line of textLines(path)) {
    number++;
    let value: T;
    try {
      value = JSON.parse(line) as T;
    } catch {
      throw new UsageError(
        `${path} line ${number} is not JSON: the file was cut off or changed; make it again.`,
      );
    }
    yield value;
  }
}
