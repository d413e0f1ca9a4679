/** Columns of a matrix in a file, packed as a matrix of their own: rows are gathered into a buffer, some at a time. */
import type { Device, MappedFile } from "../tensor/device.ts";
import { bytesOf, type DType, type PackedMatrix } from "../tensor/tensor.ts";
import type { CheckpointTensor } from "./checkpoint.ts";

/** Rows of the buffer; panels of packed matrices are 32 rows. */
const gatheredRows = 256;

/** What of a file is packed: `shape[1]` columns from `first` of the `of` that lie in its bytes. */
export type ColumnSlice = Pick<CheckpointTensor, "begin" | "end" | "shape"> & {
  columns: { first: number; of: number };
  type: DType;
};

/** Packs the columns as rows `row`.. of the matrix. */
export function packColumns(
  device: Device,
  packed: PackedMatrix,
  row: number,
  file: MappedFile,
  entry: ColumnSlice,
): void {
  const { type, columns } = entry;
  const [rows, width] = entry.shape as [number, number];
  const [from, stride, bytes] = [columns.first, columns.of, width].map((count) => count * bytesOf[type]) as [
    number,
    number,
    number,
  ];
  const whole = file.view(entry.begin, entry.end);
  const buffer = new Uint8Array(gatheredRows * bytes);
  for (let first = 0; first < rows; first += gatheredRows) {
    const count = Math.min(gatheredRows, rows - first);
    for (let i = 0; i < count; i++) {
      const at = (first + i) * stride + from;
      buffer.set(whole.subarray(at, at + bytes), i * bytes);
    }
    device.pack(packed, buffer, row + first, count, type);
  }
}
