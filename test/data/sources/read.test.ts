import { describe, expect, test } from "bun:test";
import { basename, join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import {
  detectFile,
  fileLabels,
  readDialogues,
  type ReadDialogue,
  type ReadDialogueOptions,
} from "../../../src/data/sources/read.ts";
import { sourceNames, sourceTable } from "../../../src/data/sources/registry.ts";
import { UsageError } from "../../../src/util/errors.ts";
import { temporaryFolder } from "../../support/temporary.ts";

const folder = temporaryFolder("sources");

async function read(
  name: string,
  content: string | Uint8Array,
  options: ReadDialogueOptions = {},
): Promise<ReadDialogue[]> {
  const path = join(folder, name);
  await Bun.write(path, typeof content === "string" ? content : Uint8Array.from(content));
  return Array.fromAsync(readDialogues(path, options));
}

/** Ids of dialogues, and `id reason` of drops. */
const ids = (all: ReadDialogue[]): string[] =>
  all.map((one) => (one.verdict === "dropped" ? `${one.drop.id} ${one.drop.reason}` : one.dialogue.id));
const questions = (all: ReadDialogue[]): unknown[] =>
  all.flatMap((one) => (one.verdict === "dropped" ? [] : [one.dialogue.record.messages[0]!.content]));

const record = (i: number) => ({
  instruction: `Question ${i} ü, ] } \\ "x"`,
  input: "",
  output: `Answer ${i}`,
});
const records = [0, 1, 2, 3].map(record);
const lines = records.map((one) => JSON.stringify(one)).join("\n");
const wanted = records.map(({ instruction }) => instruction);

const parquet = (rowGroupSize = 2): Uint8Array =>
  new Uint8Array(
    parquetWriteBuffer({
      columnData: (["instruction", "input", "output"] as const).map((name) => ({
        name,
        data: records.map((one) => one[name]),
        type: "STRING" as const,
      })),
      rowGroupSize,
    }),
  );

const forms: [string, string | Uint8Array][] = [
  ["lines.jsonl", lines],
  ["crlf.jsonl", `\ufeff${lines.replaceAll("\n", "\r\n")}\r\n`],
  ["lines.json", lines],
  ["array.json", JSON.stringify(records, null, 1)],
  ["one_line.json", JSON.stringify(records)],
  ["sections.json", JSON.stringify({ train: records.slice(0, 3), eval: records.slice(3) })],
  ["gzip.jsonl.gz", Bun.gzipSync(Buffer.from(lines))],
  ["zstd.json.zst", Bun.zstdCompressSync(Buffer.from(JSON.stringify(records)))],
  ["rows.parquet", parquet()],
];

describe("the same records in every container", () => {
  test.each(forms)("%s", async (name, content) => {
    const all = await read(name, content);
    expect(all.map(({ verdict }) => verdict)).toEqual(["ok", "ok", "ok", "ok"]);
    expect(questions(all)).toEqual(wanted);
    expect(new Set(ids(all)).size).toBe(4);
    expect(ids(await read(name, content))).toEqual(ids(all));
  });

  test("ids name the source, the file, the line, and the number where records share a line", async () => {
    expect(ids(await read("lines.jsonl", lines, { sourceName: "mine" }))[2]).toBe("mine/lines.jsonl:3");
    expect(ids(await read("one_line.json", JSON.stringify(records)))).toEqual([
      "alpaca/one_line.json:1",
      "alpaca/one_line.json:1#2",
      "alpaca/one_line.json:1#3",
      "alpaca/one_line.json:1#4",
    ]);
    expect(ids(await read("rows.parquet", parquet()))[3]).toBe("alpaca/rows.parquet:4");
  });

  test("sections become the tag split", async () => {
    const all = await read("kdp.json", JSON.stringify({ train: [], eval: records.slice(3) }));
    expect(all.map((one) => one.verdict !== "dropped" && one.dialogue.tags)).toEqual([{ split: "eval" }]);
  });

  test("nested columns of parquet are the objects and lists that they were", async () => {
    const rows = [0, 1].map((i) => ({
      conversations: [
        { from: "human", value: `Hello ${i}` },
        { from: "gpt", value: "Hi" },
      ],
      count: BigInt(i),
    }));
    const buffer = parquetWriteBuffer({
      columnData: [
        { name: "conversations", data: rows.map((row) => row.conversations) },
        { name: "count", data: rows.map((row) => row.count) },
      ],
      schema: [
        { name: "root", num_children: 2 },
        { name: "conversations", repetition_type: "OPTIONAL", num_children: 1, converted_type: "LIST" },
        { name: "list", repetition_type: "REPEATED", num_children: 1 },
        { name: "element", repetition_type: "OPTIONAL", num_children: 2 },
        { name: "from", type: "BYTE_ARRAY", repetition_type: "OPTIONAL", converted_type: "UTF8" },
        { name: "value", type: "BYTE_ARRAY", repetition_type: "OPTIONAL", converted_type: "UTF8" },
        { name: "count", type: "INT64", repetition_type: "OPTIONAL" },
      ],
    });
    const all = await read("nested.parquet", new Uint8Array(buffer));
    expect(questions(all)).toEqual(["Hello 0", "Hello 1"]);
  });
});

describe("a file cut off at any byte", () => {
  test.each(forms)("%s gives what stood before, and a reason", async (name, content) => {
    const bytes = typeof content === "string" ? Buffer.from(content) : content;
    const step = bytes.length > 1200 ? 7 : 1;
    for (let size = 0; size < bytes.length; size += step) {
      let all: ReadDialogue[];
      try {
        all = await read(`cut_${name}`, bytes.subarray(0, size), { source: "alpaca" });
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
        expect(error.message).toContain("is empty");
        continue;
      }
      const kept = questions(all);
      expect(kept).toEqual(wanted.slice(0, kept.length));
      const drops = all.filter(({ verdict }) => verdict === "dropped");
      expect(drops.length).toBeLessThanOrEqual(1);
      expect(all.at(-1)!.verdict === "dropped" || kept.length > 0).toBe(true);
      if (drops[0]?.verdict === "dropped") expect(drops[0].drop.id).toMatch(/^alpaca\/cut_.*:\d+(#\d)?$/);
      if (drops.length === 0) expect(name).toMatch(/\.jsonl$|lines\.json$/); // cut between two lines
    }
  });

  test("keeps every whole record: the count follows from the bytes", async () => {
    const ends = records.map((_, i) =>
      Buffer.byteLength(
        records
          .slice(0, i + 1)
          .map((one) => JSON.stringify(one))
          .join("\n"),
      ),
    );
    for (const size of [ends[0]! + 1, ends[1]! + 5, ends[2]! + 1, ends[3]! - 1]) {
      const all = await read("count.jsonl", Buffer.from(lines).subarray(0, size), { source: "alpaca" });
      expect(questions(all)).toHaveLength(ends.filter((end) => end <= size).length);
    }
  });

  test("of large compressed files nothing before the cut is lost", async () => {
    const many = Array.from({ length: 20_000 }, (_, i) => JSON.stringify(record((i * 7919) % 20_011))).join(
      "\n",
    );
    for (const [name, packed] of [
      ["large.jsonl.gz", Bun.gzipSync(Buffer.from(many))],
      ["large.jsonl.zst", Bun.zstdCompressSync(Buffer.from(many))],
    ] as const) {
      const all = await read(name, packed.subarray(0, packed.length >> 1), { source: "alpaca" });
      const last = all.at(-1)!;
      expect(last.verdict === "dropped" && last.drop.reason).toBe("the compressed data is truncated");
      // gzip -dc and zstd -dc give what they can from a truncated file, too.
      const command = name.endsWith("gz") ? "gzip" : "zstd";
      if (Bun.which(command) === null) continue;
      const { stdout } = Bun.spawnSync([command, "-dc", join(folder, name)]);
      const whole = stdout.toString().split("\n").length - 1;
      expect([whole > 1000, all.length - 1 >= whole]).toEqual([true, true]);
    }
  });
});

describe("bad records", () => {
  test("cost themselves only, with line and reason", async () => {
    const bad = [
      JSON.stringify(record(0)),
      "{oops",
      '{"instruction": 5}',
      '"text"',
      "[1, 2]",
      "null",
      '{"instruction": "\ud800", "output": "x"}',
      "[".repeat(100_000),
      JSON.stringify(record(1)),
    ].join("\n");
    const all = await read("bad.jsonl", bad, { source: "alpaca" });
    expect(all).toHaveLength(9);
    expect(ids(all).filter((id) => id.includes(" "))).toEqual([
      expect.stringMatching(/^alpaca\/bad\.jsonl:2 malformed JSON/),
      "alpaca/bad.jsonl:3 instruction is not text",
      "alpaca/bad.jsonl:4 the line is no JSON object",
      "alpaca/bad.jsonl:5 instruction is missing",
      "alpaca/bad.jsonl:6 the line is no JSON object",
      expect.stringMatching(/^alpaca\/bad\.jsonl:8 malformed JSON/),
    ] as string[]);
  });

  test("that are not UTF-8 are dropped", async () => {
    const bytes = Buffer.concat([
      Buffer.from(`${lines}\n{"instruction":"`),
      Buffer.from([0xc3, 0x28]),
      Buffer.from('"}'),
    ]);
    expect(ids(await read("latin.jsonl", bytes)).at(-1)).toBe("alpaca/latin.jsonl:5 the bytes are not UTF-8");
  });

  test("of any shape never throw, whatever the source", async () => {
    const shapes: unknown[] = [
      null,
      1,
      "",
      [],
      {},
      [null],
      [{}],
      { from: 1 },
      [{ from: "human" }],
      { text: 1 },
      [[1]],
    ];
    const keys = [
      ..."conversations items human_0 gpt_1 question human_answers chatgpt_answers text instruction output".split(
        " ",
      ),
      ..."chosen rejected prompt list info summaries choice messages data questions answers answer_0 score_0".split(
        " ",
      ),
    ];
    const values = keys.flatMap((key) => shapes.map((shape) => ({ [key]: shape })));
    const twice = values.map((value, i) => ({ ...value, ...values[(i * 31 + 7) % values.length] }));
    const all = [...values, ...twice].map((value) => JSON.stringify(value)).join("\n");
    for (const source of sourceNames) {
      const verdicts = (await read("shapes.jsonl", all, { source })).map(({ verdict }) => verdict);
      expect(verdicts.filter((verdict) => verdict === "dropped").length).toBeGreaterThan(values.length);
    }
  });
});

type Reading = { last: string; questions: number; grown: number };

describe("records without an end", () => {
  const endless = async function* (start: string, bytes: number): AsyncGenerator<Uint8Array> {
    yield Buffer.from(start);
    const chunk = Buffer.alloc(2 ** 18, "x");
    for (let sent = 0; sent < bytes; sent += chunk.length) yield chunk;
  };

  async function written(name: string, start: string, bytes: number, end = ""): Promise<string> {
    const path = join(folder, name);
    const writer = Bun.file(path).writer();
    for await (const chunk of endless(start, bytes)) {
      writer.write(chunk);
      await writer.flush();
    }
    writer.write(end);
    await writer.end();
    return path;
  }

  const limit = { recordBytesMax: 2 ** 20 };

  test.each([
    ["line.jsonl", `${lines}\n{"instruction":"`, ":5 the record is longer than 1048576 bytes"],
    [
      "array.json",
      `[${JSON.stringify(records[0])},\n{"instruction":"`,
      ":2 the file ends inside its JSON array: it is truncated",
    ],
  ])("%s of 600 MB gives line and reason in bounded memory", async (name, start, reason) => {
    const path = await written(name, start, 600e6);
    // In a process of its own: the garbage of other tests is not this one's.
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "reading_child.ts"), path], {
      stdout: "pipe",
    });
    const { last, questions: count, grown } = (await new Response(child.stdout).json()) as Reading;
    expect(last).toBe(`alpaca/${name}${reason}`);
    expect(count).toBeGreaterThan(0);
    expect(grown).toBeLessThan(300e6);
  });

  test("a compressed bomb stays bounded, too, and records behind it come", async () => {
    const zeros = Buffer.alloc(100e6, "x");
    const packed = Bun.zstdCompressSync(
      Buffer.concat([
        Buffer.from('{"instruction":"'),
        zeros,
        Buffer.from(`"}\n${JSON.stringify(records[0])}\n`),
      ]),
    );
    expect(packed.length).toBeLessThan(100_000);
    const all = await read("bomb.jsonl.zst", packed, limit);
    expect(ids(all)).toEqual([
      "alpaca/bomb.jsonl.zst:1 the record is longer than 1048576 bytes",
      "alpaca/bomb.jsonl.zst:2",
    ]);
  });
});

describe("files that no run can use are refused with a sentence", () => {
  test.each<[string, string, ReadDialogueOptions, RegExp]>([
    ["empty.jsonl", "\n", {}, /empty\.jsonl is empty/],
    [
      "strange.jsonl",
      '{"a":1}',
      {},
      /strange\.jsonl looks like no known source\. The first record has the keys a;/,
    ],
    ["pretty.json", '{\n "a": 1\n}', {}, /none of the first 3 records can be read\. A \.json file holds/],
    ["lines.jsonl", lines, { source: "nope" }, /There is no source nope; known are hc3/],
    [
      "lines.jsonl",
      lines,
      { options: { joner: " " } },
      /The source alpaca has no setting joner; it has joiner/,
    ],
    ["lines.jsonl", lines, { options: { joiner: 5 } }, /The setting joiner .* must be string, not 5/],
  ])("%s", async (name, content, options, message) => {
    await expect(read(name, content, options)).rejects.toThrow(message);
  });

  test("and so is a file that is not there", async () => {
    await expect(Array.fromAsync(readDialogues(join(folder, "none.parquet")))).rejects.toThrow(
      "There is no file",
    );
    await expect(Array.fromAsync(readDialogues(folder))).rejects.toThrow("is a folder");
  });
});

test("detectFile says what auto would take", async () => {
  await Bun.write(join(folder, "detect.jsonl"), lines);
  expect((await detectFile(join(folder, "detect.jsonl"))).name).toBe("alpaca");
});

test("files of one name are told apart by their folders", () => {
  expect(fileLabels(["a/helpful-base/train.gz", "a/harmless-base/train.gz", "b/x.json"])).toEqual([
    "helpful-base/train.gz",
    "harmless-base/train.gz",
    basename("b/x.json"),
  ]);
});

test("the table has every source with a sentence", () => {
  expect(sourceTable().map(({ name }) => name)).toEqual([...sourceNames]);
  for (const { about, keys } of sourceTable())
    expect([about.endsWith("."), keys.length > 5]).toEqual([true, true]);
});

test.each([
  ["members.jsonl.gz", (bytes: Buffer) => Bun.gzipSync(Uint8Array.from(bytes))],
  ["frames.jsonl.zst", (bytes: Buffer) => Bun.zstdCompressSync(bytes)],
])("%s that was joined from two compressed files is read to its end", async (name, pack) => {
  const halves = [lines.slice(0, 80), lines.slice(80)].map((half) => pack(Buffer.from(half)));
  expect(questions(await read(name, Buffer.concat(halves)))).toEqual(wanted);
});

test("a damaged row group of a parquet file is told with its rows, and the next ones come", async () => {
  const damaged = parquet();
  damaged[12]! ^= 0x80; // in the first page's header: the decoder alone would never come back
  const all = await read("damaged.parquet", damaged, { source: "alpaca" });
  expect(ids(all)).toEqual([
    expect.stringMatching(
      /^alpaca\/damaged\.parquet:1 the row group cannot be read \(.*\), and with it 2 rows$/,
    ),
    "alpaca/damaged.parquet:3",
    "alpaca/damaged.parquet:4",
  ] as string[]);
});

test("any flipped bit of a compressed file ends in drops or a sentence, never in another error", async () => {
  for (const [name, packed] of [
    ["flipped.jsonl.gz", Bun.gzipSync(Buffer.from(lines))],
    ["flipped.jsonl.zst", Bun.zstdCompressSync(Buffer.from(lines))],
  ] as const)
    for (let at = 0; at < packed.length; at++) {
      const bytes = Uint8Array.from(packed);
      bytes[at]! ^= 1 << (at % 8);
      try {
        await read(name, bytes, { source: "alpaca" });
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
      }
    }
});
