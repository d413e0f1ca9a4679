/** Cuts a stream of bytes into records: lines, elements of one JSON array, or documents of a text file.
 *  Always: no more than one record is held; one that is longer than the limit is skipped and comes out as a fault. */

/** The bytes of one record and the line on which it begins (from 1). */
export interface RawRecord {
  line: number;
  /** Of a record with a fault, its beginning. */
  bytes: Uint8Array;
  fault?: string;
  /** Key of the array it lies in, where the file is an object of arrays. */
  section?: string;
}

export interface Splitter {
  push(chunk: Uint8Array): RawRecord[];
  /** What is left at the end of the file; throws a SplitFault where the file is broken off or its frame is wrong. */
  finish(): RawRecord[];
  /** Where the record begins that is not complete yet. */
  readonly openLine: number;
}

export const recordBytesMax = 64 * 2 ** 20;

/** The file's frame is broken. */
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
  private tooLong = false;

  constructor(private readonly bytesMax: number) {}

  /** Chunks may be reused by their stream, so what stays is copied. */
  keep(bytes: Uint8Array): void {
    if (bytes.length === 0 || this.tooLong) return;
    this.length += bytes.length;
    this.tooLong = this.length > this.bytesMax;
    this.parts.push(bytes.slice(0, this.tooLong ? excerptBytes : bytes.length));
    if (this.tooLong) this.parts = [Buffer.concat(this.parts).subarray(0, excerptBytes)];
  }

  take(line: number, last: Uint8Array): RawRecord {
    if (this.parts.length > 0 || last.length > this.bytesMax) this.keep(last);
    else this.parts.push(last.slice());
    const bytes = this.parts.length === 1 ? this.parts[0]! : Buffer.concat(this.parts);
    const fault = `the record is longer than ${this.bytesMax} bytes`;
    const record: RawRecord = this.tooLong ? { line, bytes: Uint8Array.from(bytes), fault } : { line, bytes };
    [this.parts, this.length, this.tooLong] = [[], 0, false];
    return record;
  }
}

const excerptBytes = 1000;

const newline = 10;

/** JSONL. Blank lines are counted and skipped. */
export class LineSplitter implements Splitter {
  private line = 1;
  private readonly pending: Pending;

  constructor(bytesMax = recordBytesMax) {
    this.pending = new Pending(bytesMax);
  }

  get openLine(): number {
    return this.line;
  }

  push(chunk: Uint8Array): RawRecord[] {
    const records: RawRecord[] = [];
    let from = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, from)) {
      this.add(this.pending.take(this.line, chunk.subarray(from, at)), records);
      this.line++;
      from = at + 1;
    }
    this.pending.keep(chunk.subarray(from));
    return records;
  }

  finish(): RawRecord[] {
    const records: RawRecord[] = [];
    this.add(this.pending.take(this.line, new Uint8Array(0)), records);
    return records;
  }

  private add(record: RawRecord, records: RawRecord[]): void {
    if (!isBlank(record.bytes)) records.push(record);
  }
}

/** One JSON array of objects, or one object of such arrays (`sections`, as in `{"train": [...], "eval": [...]}`): only strings,
 *  brackets and commas matter here, JSON.parse checks the rest. */
export class ArraySplitter implements Splitter {
  private line = 1;
  private startLine = 1;
  private depth = 0;
  private inString = false;
  private escaped = false;
  private inElement = false;
  private closed = false;
  private section = "";
  private broken: SplitFault | null = null;
  private readonly pending: Pending;
  /** Brackets around an element. */
  private readonly outerDepth: number;

  constructor({ sections = false, bytesMax = recordBytesMax } = {}) {
    this.pending = new Pending(bytesMax);
    this.outerDepth = sections ? 2 : 1;
  }

  get openLine(): number {
    return this.inElement ? this.startLine : this.line;
  }

  push(chunk: Uint8Array): RawRecord[] {
    const records: RawRecord[] = [];
    let from = 0;
    for (let at = 0; at < chunk.length && !this.broken; at++) {
      const byte = chunk[at]!;
      if (byte === newline) this.line++;
      if (this.inString) this.insideString(byte);
      else if (this.ends(byte)) {
        if (this.inElement) records.push(this.element(chunk.subarray(from, at)));
        this.inElement = false;
      } else if (this.outside(byte)) from = at;
    }
    if (this.inElement) this.pending.keep(chunk.subarray(from));
    return records;
  }

  finish(): RawRecord[] {
    if (this.broken) throw this.broken;
    if (this.closed) return [];
    throw new SplitFault(this.openLine, "the file ends inside its JSON array: it is truncated");
  }

  private element(last: Uint8Array): RawRecord {
    const record = this.pending.take(this.startLine, last);
    return this.outerDepth === 2 ? { ...record, section: this.section } : record;
  }

  private insideString(byte: number): void {
    if (this.escaped) this.escaped = false;
    else if (byte === 0x5c) this.escaped = true;
    else if (byte === 0x22) this.inString = false;
    else if (this.depth < this.outerDepth && this.section.length < 100)
      this.section += String.fromCharCode(byte);
  }

  /** True at the comma or bracket that ends an element. */
  private ends(byte: number): boolean {
    if (byte === 0x2c) return this.depth === this.outerDepth;
    if (byte !== 0x5d && byte !== 0x7d) return false;
    if (this.closed) return false;
    this.depth--;
    if (this.depth === 0) this.closed = true;
    return this.depth < this.outerDepth;
  }

  /** True where an element begins. */
  private outside(byte: number): boolean {
    const blank = byte <= 0x20;
    if (this.closed && !blank) {
      this.broken = new SplitFault(this.line, "something follows the end of the JSON array");
      return false;
    }
    const begins = this.depth === this.outerDepth && !this.inElement && !blank;
    if (begins) [this.inElement, this.startLine] = [true, this.line];
    if (byte === 0x22) {
      this.inString = true;
      if (this.depth < this.outerDepth) this.section = "";
    } else if (byte === 0x5b || byte === 0x7b) this.depth++;
    return begins;
  }
}

const separator = "<|endoftext|>";

/** Plain text: documents between lines that hold `<|endoftext|>` alone; a document of more than a MiB is cut at a line. */
export class TextSplitter implements Splitter {
  private readonly lines: LineSplitter;
  private parts: Uint8Array[] = [];
  private length = 0;
  private startLine = 1;
  private nextLine = 1;

  constructor(bytesMax = recordBytesMax) {
    this.lines = new LineSplitter(bytesMax);
  }

  get openLine(): number {
    return this.startLine;
  }

  push(chunk: Uint8Array): RawRecord[] {
    return this.lines.push(chunk).flatMap((line) => this.add(line));
  }

  finish(): RawRecord[] {
    return [...this.lines.finish().flatMap((line) => this.add(line)), ...this.take()];
  }

  private add(record: RawRecord): RawRecord[] {
    const { line, bytes } = record;
    if (record.fault) return [...this.take(), record];
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
