/** Cuts a stream of bytes into records: lines, elements of one JSON array, or documents of a text file.
 *  Always: no more than one record is held, and none may be longer than `recordBytesMax`. */

/** The bytes of one record and the line on which it begins (from 1). */
export interface RawRecord {
  line: number;
  bytes: Uint8Array;
}

export interface Splitter {
  push(chunk: Uint8Array): RawRecord[];
  /** What is left at the end of the file. */
  finish(): RawRecord[];
}

export const recordBytesMax = 64 * 2 ** 20;

/** A record outgrew the limit, or the file's frame is broken. */
export class SplitFault extends Error {
  constructor(
    readonly line: number,
    readonly reason: string,
  ) {
    super(`line ${line}: ${reason}`);
  }
}

/** Bytes of a record that came in several chunks. */
class Pending {
  private parts: Uint8Array[] = [];
  private length = 0;

  /** Chunks may be reused by their stream, so what stays is copied. */
  keep(bytes: Uint8Array, line: number): void {
    if (bytes.length === 0) return;
    this.length += bytes.length;
    if (this.length > recordBytesMax)
      throw new SplitFault(line, `the record is longer than ${recordBytesMax} bytes`);
    this.parts.push(bytes.slice());
  }

  take(last: Uint8Array): Uint8Array {
    const all = this.parts.length === 0 ? last.slice() : Buffer.concat([...this.parts, last]);
    this.parts = [];
    this.length = 0;
    return all;
  }
}

const newline = 10;

/** JSONL. Blank lines are counted and skipped. */
export class LineSplitter implements Splitter {
  private line = 1;
  private readonly pending = new Pending();

  push(chunk: Uint8Array): RawRecord[] {
    const records: RawRecord[] = [];
    let from = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, from)) {
      this.add(this.pending.take(chunk.subarray(from, at)), records);
      this.line++;
      from = at + 1;
    }
    this.pending.keep(chunk.subarray(from), this.line);
    return records;
  }

  finish(): RawRecord[] {
    const records: RawRecord[] = [];
    this.add(this.pending.take(new Uint8Array(0)), records);
    return records;
  }

  private add(bytes: Uint8Array, records: RawRecord[]): void {
    if (!isBlank(bytes)) records.push({ line: this.line, bytes });
  }
}

/** One JSON array of objects: only strings, brackets and commas matter here, JSON.parse checks the rest. */
export class ArraySplitter implements Splitter {
  private line = 1;
  private startLine = 1;
  private depth = 0;
  private inString = false;
  private escaped = false;
  private inElement = false;
  private closed = false;
  private readonly pending = new Pending();

  push(chunk: Uint8Array): RawRecord[] {
    const records: RawRecord[] = [];
    let from = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at]!;
      if (byte === newline) this.line++;
      if (this.inString) this.insideString(byte);
      else if (this.ends(byte)) {
        if (this.inElement)
          records.push({ line: this.startLine, bytes: this.pending.take(chunk.subarray(from, at)) });
        this.inElement = false;
      } else if (this.outside(byte)) from = at;
    }
    if (this.inElement) this.pending.keep(chunk.subarray(from), this.startLine);
    return records;
  }

  finish(): RawRecord[] {
    if (this.closed) return [];
    throw new SplitFault(this.line, "the file ends inside its JSON array: it is truncated");
  }

  private insideString(byte: number): void {
    if (this.escaped) this.escaped = false;
    else if (byte === 0x5c) this.escaped = true;
    else if (byte === 0x22) this.inString = false;
  }

  /** True at the comma or bracket that ends an element of the outer array. */
  private ends(byte: number): boolean {
    if (byte === 0x2c) return this.depth === 1;
    if (byte !== 0x5d && byte !== 0x7d) return false;
    this.depth--;
    if (this.depth === 0) this.closed = true;
    return this.depth === 0;
  }

  /** True where an element begins. */
  private outside(byte: number): boolean {
    const blank = byte <= 0x20;
    if (this.closed && !blank) throw new SplitFault(this.line, "something follows the end of the JSON array");
    const begins = this.depth === 1 && !this.inElement && !blank;
    if (begins) [this.inElement, this.startLine] = [true, this.line];
    if (byte === 0x22) this.inString = true;
    else if (byte === 0x5b || byte === 0x7b) this.depth++;
    return begins;
  }
}

const separator = "<|endoftext|>";

/** Plain text: documents between lines that hold `<|endoftext|>` alone; a document of more than a MiB is cut at a line. */
export class TextSplitter implements Splitter {
  private readonly lines = new LineSplitter();
  private parts: Uint8Array[] = [];
  private length = 0;
  private startLine = 1;
  private nextLine = 1;

  push(chunk: Uint8Array): RawRecord[] {
    return this.lines.push(chunk).flatMap((line) => this.add(line));
  }

  finish(): RawRecord[] {
    return [...this.lines.finish().flatMap((line) => this.add(line)), ...this.take()];
  }

  private add({ line, bytes }: RawRecord): RawRecord[] {
    const blankLines = line - this.nextLine;
    this.nextLine = line + 1;
    if (bytes.length < 20 && Buffer.from(bytes).toString().trim() === separator) return this.take();
    const full = this.length > documentBytesMax ? this.take() : [];
    if (this.parts.length === 0) this.startLine = line;
    else this.keep(Buffer.alloc(blankLines + 1, newline));
    this.keep(bytes);
    return full;
  }

  private keep(bytes: Uint8Array): void {
    this.parts.push(bytes);
    this.length += bytes.length;
  }

  private take(): RawRecord[] {
    if (this.length === 0) return [];
    const record = { line: this.startLine, bytes: Buffer.concat(this.parts) };
    this.parts = [];
    this.length = 0;
    return [record];
  }
}

const documentBytesMax = 2 ** 20;

const isBlank = (bytes: Uint8Array): boolean => bytes.every((byte) => byte <= 0x20);
