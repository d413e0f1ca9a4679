/** TensorBoard event files: records of length, masked CRC32C, protobuf Event, masked CRC32C (tensorflow/core/lib/io/record_writer.cc;
 *  fields of event.proto and summary.proto: wall_time 1, step 2, file_version 3, summary 5; value 1: tag 1, simple_value 2). */
import { closeSync, openSync, writeSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";

export class EventFile {
  private readonly handle: number;

  /** Appends to a new file in `directory`, which TensorBoard finds by its name. `now`: seconds since 1970. */
  constructor(directory: string, now = Date.now() / 1000) {
    const name = `events.out.tfevents.${Math.floor(now)}.${hostname()}.${process.pid}`;
    this.handle = openSync(join(directory, name), "a");
    this.write([...double(1, now), ...bytesField(3, Buffer.from("brain.Event:2"))]);
  }

  scalars(step: number, values: Record<string, number>, now = Date.now() / 1000): void {
    const summary = Object.entries(values).flatMap(([tag, value]) => [
      ...bytesField(1, [...bytesField(1, Buffer.from(tag)), ...float(2, value)]),
    ]);
    this.write([...double(1, now), ...varintField(2, step), ...bytesField(5, summary)]);
  }

  close(): void {
    closeSync(this.handle);
  }

  private write(event: number[]): void {
    const record = Buffer.alloc(16 + event.length);
    record.writeBigUInt64LE(BigInt(event.length), 0);
    record.writeUInt32LE(maskedCrc(record.subarray(0, 8)), 8);
    record.set(event, 12);
    record.writeUInt32LE(maskedCrc(record.subarray(12, 12 + event.length)), 12 + event.length);
    writeSync(this.handle, record);
  }
}

const double = (field: number, value: number): number[] => [
  (field << 3) | 1,
  ...new Uint8Array(Float64Array.of(value).buffer),
];
const float = (field: number, value: number): number[] => [
  (field << 3) | 5,
  ...new Uint8Array(Float32Array.of(value).buffer),
];
const varintField = (field: number, value: number): number[] => [field << 3, ...varint(value)];
const bytesField = (field: number, bytes: ArrayLike<number>): number[] => [
  (field << 3) | 2,
  ...varint(bytes.length),
  ...Array.from(bytes),
];

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}

/** TensorFlow rotates and shifts checksums, so that a checksum of data that holds checksums stays sound. */
function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli). */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (table[(crc ^ byte) & 255] as number) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
