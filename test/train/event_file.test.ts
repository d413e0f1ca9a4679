import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { crc32c, EventFile } from "../../src/train/event_file.ts";
import { temporaryFolder } from "../support/temporary.ts";

test("the checksum is CRC-32C: the check value of its catalogue entry, and the vectors of RFC 3720", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
});

test("an event file holds a version and scalars, each record behind its length and checksums", () => {
  const directory = temporaryFolder("events");
  const file = new EventFile(directory, 1000.5);
  file.scalars(300, { "train/loss": 2.5, "train/epoch": -1 }, 1001);
  file.close();
  const [name] = readdirSync(directory);
  expect(name).toStartWith("events.out.tfevents.1000.");
  const bytes = readFileSync(join(directory, name!));
  const records = [...recordsOf(bytes)];
  // Event { wall_time: 1000.5, file_version: "brain.Event:2" }, as protoc encodes it.
  const first = Buffer.concat([
    Buffer.from("09", "hex"),
    double(1000.5),
    Buffer.from("1a0d", "hex"),
    Buffer.from("brain.Event:2"),
  ]);
  expect(records[0]).toEqual(first);
  const value = (tag: string, bits: string) =>
    Buffer.concat([
      Buffer.from([0x0a, tag.length + 7, 0x0a, tag.length]),
      Buffer.from(tag),
      Buffer.from(`15${bits}`, "hex"),
    ]);
  const summary = Buffer.concat([value("train/loss", "00002040"), value("train/epoch", "000080bf")]);
  const second = [
    Buffer.from("09", "hex"),
    double(1001),
    Buffer.from("10ac02", "hex"),
    Buffer.from([0x2a, summary.length]),
    summary,
  ];
  expect(records[1]).toEqual(Buffer.concat(second));
  expect(records).toHaveLength(2);
});

const double = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return bytes;
};

/** TFRecord framing, as tensorflow's record_reader checks it. */
function* recordsOf(bytes: Buffer): Generator<Buffer> {
  const masked = (part: Buffer) => {
    const crc = BigInt(crc32c(part));
    return Number((((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn);
  };
  for (let at = 0; at < bytes.length;) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(masked(bytes.subarray(at, at + 8)));
    const record = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(masked(record));
    yield Buffer.from(record);
    at += 16 + length;
  }
}
