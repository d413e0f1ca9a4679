import { expect, test } from "bun:test";
import { ZstdFrames } from "../../src/data/zstd_frames.ts";

const noise = Uint8Array.from({ length: 300_000 }, (_, i) => (Math.imul(i + 1, 2654435761) >>> 13) & 255);
const contents = [Buffer.alloc(0), Buffer.from("abc"), Buffer.alloc(300_000, 1), noise];

function completeAt(bytes: Uint8Array, step: number): number[] {
  const frames = new ZstdFrames();
  const ends: number[] = [];
  for (let at = 0; at < bytes.length; at += step) {
    frames.push(bytes.subarray(at, at + step));
    if (frames.complete) ends.push(Math.min(at + step, bytes.length));
  }
  return ends;
}

test("a frame is complete at its last byte and at none before", () => {
  for (const content of contents)
    for (const level of [1, 3, 19] as const) {
      const packed = Bun.zstdCompressSync(content, { level });
      expect(completeAt(packed, 1)).toEqual([packed.length]);
      expect(completeAt(packed, 1 << 20)).toEqual([packed.length]);
    }
});

test("frames may follow one another, with skippable ones between", () => {
  const packed = Bun.zstdCompressSync(Buffer.from("abc"));
  const skippable = Buffer.from([0x53, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9]);
  const all = Buffer.concat([packed, skippable, packed]);
  const first = packed.length;
  expect(completeAt(all, 1)).toEqual([first, first + skippable.length, all.length]);
});
