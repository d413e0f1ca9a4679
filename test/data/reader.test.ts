import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { readRecords, type ReadOptions, type ReadRecord } from "../../src/data/reader.ts";
import { ArraySplitter, LineSplitter, TextSplitter, type Splitter } from "../../src/data/splitters.ts";
import { temporaryFolder } from "../support/temporary.ts";

const folder = temporaryFolder("reader");

async function read(
  name: string,
  content: string | Uint8Array<ArrayBuffer>,
  options: ReadOptions = {},
): Promise<ReadRecord[]> {
  const path = join(folder, name);
  await Bun.write(path, content);
  return Array.fromAsync(readRecords(path, options));
}

const texts = (records: ReadRecord[]): string[] =>
  records.map((read) =>
    read.verdict === "dropped"
      ? `${read.file}:${read.line} ${read.reason}`
      : `${read.line} ${read.record.kind === "text" ? read.record.text : read.record.kind}`,
  );

const line = (text: string): string => `${JSON.stringify({ text })}\n`;

describe("JSONL", () => {
  test("names file, line and reason of what it cannot read and goes on", async () => {
    const records = await read("bad.jsonl", `${line("a")}\n{"text": oops}\n[1]\n{"text": 5}\r\n${line("b")}`);
    expect(texts(records)).toEqual([
      "1 a",
      expect.stringMatching(/^bad\.jsonl:3 malformed JSON/),
      "bad.jsonl:4 the line is no JSON object",
      "bad.jsonl:5 text is not text",
      "6 b",
    ] as string[]);
  });

  test("may begin with a byte order mark, end without a newline and have CRLF", async () => {
    expect(texts(await read("mark.jsonl", `\ufeff${line("a").trim()}\r\n${line("b").trim()}`))).toEqual([
      "1 a",
      "2 b",
    ]);
  });

  test("with bytes that are not UTF-8 drops that line", async () => {
    const bytes = Buffer.concat([Buffer.from(line("a")), Buffer.from([0x7b, 0xff, 0x7d, 10])]);
    expect(texts(await read("latin.jsonl", bytes))[1]).toBe("latin.jsonl:2 the bytes are not UTF-8");
  });

  test("that is empty, missing, a folder or all broken is refused with a sentence", async () => {
    await expect(read("empty.jsonl", "\n \n")).rejects.toThrow("empty.jsonl is empty");
    await expect(Array.fromAsync(readRecords(join(folder, "none.jsonl")))).rejects.toThrow(
      "There is no file",
    );
    await expect(Array.fromAsync(readRecords(folder))).rejects.toThrow("is a folder");
    await expect(read("broken.jsonl", "{\n{\n")).rejects.toThrow(/broken\.jsonl line 1: malformed JSON/);
  });
});

test("gzip and zstd files give the same records; a truncated one is refused", async () => {
  const content = Array.from({ length: 5000 }, (_, i) => line(`text ${i}`)).join("");
  const plain = texts(await read("plain.jsonl", content));
  expect(plain).toHaveLength(5000);
  const gzip = Bun.gzipSync(Buffer.from(content));
  expect(texts(await read("a.jsonl.gz", gzip))).toEqual(plain);
  const zstd = Uint8Array.from(Bun.zstdCompressSync(Buffer.from(content)));
  expect(texts(await read("a.jsonl.zst", zstd))).toEqual(plain);
  await expect(read("cut.jsonl.gz", gzip.subarray(0, 5000))).rejects.toThrow(
    /cut\.jsonl\.gz line \d+: the compressed data is truncated/,
  );
});

test("a JSON array is read element by element, with the lines on which elements begin", async () => {
  const array = '[\n {"text":"a, ] } \\" \\\\"},\n\n {"text":"b",\n  "more":[1,{"x":[]}]}\n]\n';
  expect(texts(await read("array.json", array))).toEqual(['2 a, ] } " \\', "4 b"]);
  await expect(read("short.json", array.slice(0, -4))).rejects.toThrow("truncated");
  await expect(read("long.json", `${array}{}`)).rejects.toThrow("something follows the end");
});

test("a text file falls into documents between separator lines", async () => {
  const records = await read("book.txt", "One.\n\nStill one.\n<|endoftext|>\nTwo.\n");
  expect(texts(records)).toEqual(["1 One.\n\nStill one.", "5 Two."]);
});

test("the format can be named against what the records look like", async () => {
  const record = `${JSON.stringify({ text: "a", messages: [] })}\n`;
  expect(texts(await read("both.jsonl", record))[0]).toContain("messages is not a list");
  expect(texts(await read("both.jsonl", record, { format: "text" }))).toEqual(["1 a"]);
});

describe.each<[string, () => Splitter, string]>([
  ["lines", () => new LineSplitter(), '{"a":"ü\\n"}\n\n{"b":[1,2]}\n{"c":1}'],
  ["an array", () => new ArraySplitter(), ' [ {"a":"ü],\\"\\\\"} , {"b":[1,{}]},\n3 ]'],
  ["text", () => new TextSplitter(), "a\n\nb\n<|endoftext|>\nc\n"],
])("splitting %s", (_name, create, content) => {
  const cut = (size: number): [number, string][] => {
    const splitter = create();
    const bytes = Buffer.from(content);
    const records = [];
    for (let at = 0; at < bytes.length; at += size)
      records.push(...splitter.push(bytes.subarray(at, at + size)));
    records.push(...splitter.finish());
    return records.map((record) => [record.line, Buffer.from(record.bytes).toString().trim()]);
  };

  test("gives the same records whatever the chunks are", () => {
    const whole = cut(1000);
    expect(whole.length).toBeGreaterThan(1);
    for (let size = 1; size < 12; size++) expect(cut(size)).toEqual(whole);
  });
});
