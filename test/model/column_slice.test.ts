import { expect, test } from "bun:test";
import { join } from "node:path";
import { packColumns } from "../../src/model/column_slice.ts";
import { Arena } from "../../src/tensor/arena.ts";
import { float32ToBfloat16 } from "../../src/tensor/convert.ts";
import { MappedFile } from "../../src/tensor/device.ts";
import { openDevice } from "../../src/tensor/open_device.ts";
import { Ops } from "../../src/tensor/ops.ts";
import { testDevice } from "../support/models.ts";
import { temporaryFolder } from "../support/temporary.ts";

const [rows, of, first, width] = [600, 24, 8, 8] as const;

/** Small whole numbers, exact in every type. */
const weight = (row: number, column: number): number => ((row * 7 + column * 5) % 31) - 15;

test.each(["f32", "bf16"] as const)(
  "columns of a matrix of %s in a file multiply as the formula says, in more rows than the buffer holds",
  async (type) => {
    const device = openDevice(testDevice, { threads: 1 });
    const whole = Float32Array.from({ length: rows * of }, (_, i) => weight(Math.floor(i / of), i % of));
    const path = join(temporaryFolder("columns"), "matrix");
    const begin = 16;
    const bytes = new Uint8Array((type === "f32" ? whole : float32ToBfloat16(whole)).buffer);
    await Bun.write(path, Buffer.concat([new Uint8Array(begin), bytes]));
    const file = MappedFile.open(device, path);
    const arena = new Arena(device, "test", 1 << 20);
    // Behind 32 rows of another matrix.
    const packed = arena.packed(32 + rows, width, type);
    const columns = { first, of };
    packColumns(device, packed, 32, file, {
      begin,
      end: begin + bytes.length,
      shape: [rows, width],
      columns,
      type,
    });
    file.close();
    const x = arena.tensor([1, width], "f32");
    device.upload(
      x,
      Float32Array.from({ length: width }, (_, k) => k - 3),
    );
    const y = arena.tensor([1, 32 + rows], "f32");
    new Ops(device).matmul(y, x, packed);
    const product = (row: number) =>
      Array.from({ length: width }, (_, k) => weight(row, first + k) * (k - 3)).reduce((a, b) => a + b, 0);
    expect([...device.download(y)].slice(32)).toEqual(Array.from({ length: rows }, (_, row) => product(row)));
    arena.close();
    device.close();
  },
);
