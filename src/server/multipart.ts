/** A multipart form, read as a stream: fields into memory, its one file into the caller's hands piece by piece.
 *  Always: no more than a piece of the file is held, whatever its size; names, fields and headers are bounded.
 *  Source: RFC 7578 and RFC 2046 §5.1. */
import { RequestError } from "../util/errors.ts";

export interface FormOptions {
  /** The field that is a file. */
  fileField: string;
  fileBytesMax: number;
  write: (piece: Uint8Array) => Promise<void>;
}

export interface Form {
  fields: Map<string, string>;
  /** null: the form has no such file. */
  file: { filename: string; bytes: number } | null;
}

const headerBytesMax = 16 * 1024;
const fieldBytesMax = 64 * 1024;
const partsMax = 32;

export async function readForm(request: Request, options: FormOptions): Promise<Form> {
  const boundary = boundaryOf(request.headers.get("content-type") ?? "");
  const pieces = new Pieces(request.body as AsyncIterable<Uint8Array> | null);
  const delimiter = Buffer.from(`\r\n--${boundary}`, "latin1");
  const form: Form = { fields: new Map(), file: null };
  await pieces.until(delimiter, async () => {});
  for (let parts = 0; !(await pieces.endsForm()); parts++) {
    if (parts >= partsMax) throw malformed(`it has more than ${partsMax} fields`);
    const { name, filename } = dispositionOf(await headersOf(pieces));
    if (name === options.fileField) {
      if (form.file) throw malformed(`it has more than one ${name}`);
      const count = limited(options.fileBytesMax, tooLarge);
      await pieces.until(delimiter, (piece) => (count.add(piece.length), options.write(piece)));
      form.file = { filename: filename ?? name, bytes: count.total };
    } else form.fields.set(name, await textUntil(pieces, delimiter, fieldBytesMax));
  }
  return form;
}

/** A stream with a place to look ahead. */
class Pieces {
  /** In front of the first byte the line break that every later delimiter has. */
  #held: Buffer = Buffer.from("\r\n");
  readonly #source: AsyncIterator<Uint8Array>;

  constructor(body: AsyncIterable<Uint8Array> | null) {
    this.#source = (body ?? emptyBody())[Symbol.asyncIterator]();
  }

  /** Hands out what stands before `mark`, and goes past it. */
  async until(mark: Buffer, take: (piece: Uint8Array) => Promise<void>): Promise<void> {
    for (;;) {
      const at = this.#held.indexOf(mark);
      // The last bytes may be the beginning of the mark.
      const whole = at >= 0 ? at : Math.max(0, this.#held.length - mark.length + 1);
      if (whole > 0) await take(this.#held.subarray(0, whole));
      this.#held = this.#held.subarray(at >= 0 ? at + mark.length : whole);
      if (at >= 0) return;
      await this.#more();
    }
  }

  /** After a delimiter: "--" ends the form, a line break begins the next part. */
  async endsForm(): Promise<boolean> {
    while (this.#held.length < 2) await this.#more();
    const two = this.#held.toString("latin1", 0, 2);
    this.#held = this.#held.subarray(2);
    if (two === "--") return true;
    if (two !== "\r\n") throw malformed("a boundary is followed by something else than a line break");
    return false;
  }

  async #more(): Promise<void> {
    const { done, value } = await this.#source.next().catch(() => {
      throw malformed("the connection ended before the form did");
    });
    if (done) throw malformed("it ends before its last boundary");
    this.#held = this.#held.length === 0 ? Buffer.from(value) : Buffer.concat([this.#held, value]);
  }
}

async function* emptyBody(): AsyncGenerator<Uint8Array> {}

async function headersOf(pieces: Pieces): Promise<string> {
  return textUntil(pieces, Buffer.from("\r\n\r\n"), headerBytesMax);
}

async function textUntil(pieces: Pieces, mark: Buffer, bytesMax: number): Promise<string> {
  const count = limited(bytesMax, () => malformed(`a field is longer than ${bytesMax} bytes`));
  const parts: Uint8Array[] = [];
  await pieces.until(mark, async (piece) => {
    count.add(piece.length);
    parts.push(piece.slice());
  });
  return Buffer.concat(parts).toString("utf8");
}

function limited(most: number, fail: (most: number) => Error): { total: number; add(bytes: number): void } {
  return {
    total: 0,
    add(bytes) {
      this.total += bytes;
      if (this.total > most) throw fail(most);
    },
  };
}

function boundaryOf(contentType: string): string {
  const found = /^multipart\/form-data\b.*?;\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))/i.exec(
    contentType,
  );
  const boundary = found?.[1] ?? found?.[2];
  if (boundary !== undefined) return boundary;
  throw new RequestError(
    "This request takes a form with a file: send it as multipart/form-data, which is what the clients and curl -F do.",
    { code: "invalid_body" },
  );
}

/** `form-data; name="file"; filename="a.jsonl"`, with the escapes that browsers and curl write. */
function dispositionOf(headers: string): { name: string; filename: string | null } {
  const line = /^content-disposition:(.*)$/im.exec(headers)?.[1] ?? "";
  const quoted = (key: string): string | null => {
    const found = new RegExp(`;\\s*${key}="((?:[^"\\\\]|\\\\.)*)"|;\\s*${key}=([^\\s;]+)`, "i").exec(line);
    const text = found?.[1] ?? found?.[2];
    return text === undefined
      ? null
      : text.replace(/\\(["\\])/g, "$1").replace(/%22|%0D|%0A/gi, (escape) => decodeURIComponent(escape));
  };
  const extended = /;\s*filename\*=UTF-8''([^\s;]+)/i.exec(line)?.[1];
  const name = quoted("name");
  if (name === null || name === "") throw malformed("a part has no name");
  return {
    name: name.slice(0, 200),
    filename: extended === undefined ? quoted("filename") : decoded(extended),
  };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw malformed("a file name cannot be decoded");
  }
}

const malformed = (why: string): RequestError =>
  new RequestError(`The form cannot be read: ${why}.`, { code: "invalid_body" });

const tooLarge = (most: number): RequestError =>
  new RequestError(
    `The file is larger than ${Math.floor(most / 2 ** 20)} MB, the most that one request may bring. Larger files come in parts, through /v1/uploads.`,
    { status: 413, param: "file", code: "file_too_large" },
  );
