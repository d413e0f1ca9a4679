/** Rows of a parquet file as JSON objects, one row group after the other.
 *  Always: no more than one row group is held, and none larger than `rowGroupBytesMax` is read; a group that cannot be read is
 *  told with its rows, and the next ones come. */
import {
  asyncBufferFromFile,
  parquetMetadataAsync,
  parquetReadObjects,
  type FileMetaData,
  type RowGroup,
} from "hyparquet";
import { compressors } from "hyparquet-compressors";
import type { Json, JsonObject } from "../text/tokenizer_file.ts";
import { checkPages } from "./parquet_pages.ts";

export type ParquetRow =
  | { row: number; value: JsonObject }
  /** From `row` on, `rows` of them. */
  | { row: number; rows: number; fault: string };

export const rowGroupBytesMax = 2 ** 30;

/** Throws errors of the file system; what is wrong inside the file comes as a fault. */
export async function* parquetRows(
  path: string,
  onBytes?: (bytesRead: number) => void,
): AsyncGenerator<ParquetRow[]> {
  const file = await asyncBufferFromFile(path);
  let metadata: FileMetaData;
  try {
    metadata = await parquetMetadataAsync(file);
  } catch (error) {
    const fault = `the footer cannot be read, so the file is truncated or no parquet file (${messageOf(error)})`;
    yield [{ row: 1, rows: 0, fault }];
    return;
  }
  let rowStart = 0;
  let bytesRead = 0;
  for (const group of metadata.row_groups) {
    const rowEnd = rowStart + Number(group.num_rows);
    const range = { rowStart, rowEnd };
    const size = Number(group.total_byte_size);
    if (size > rowGroupBytesMax) {
      const fault = `the row group is larger than ${rowGroupBytesMax} bytes; write the file with smaller ones`;
      yield [{ row: rowStart + 1, rows: rowEnd - rowStart, fault }];
    } else yield await readGroup(file, metadata, group, range);
    bytesRead += Number(group.total_compressed_size ?? size);
    onBytes?.(Math.min(bytesRead, file.byteLength));
    rowStart = rowEnd;
  }
  onBytes?.(file.byteLength);
}

async function readGroup(
  file: Awaited<ReturnType<typeof asyncBufferFromFile>>,
  metadata: FileMetaData,
  group: RowGroup,
  { rowStart, rowEnd }: { rowStart: number; rowEnd: number },
): Promise<ParquetRow[]> {
  try {
    await checkPages(file, group, rowGroupBytesMax);
    const rows = await parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd });
    return rows.map((row, i) => ({ row: rowStart + i + 1, value: jsonOf(row) as JsonObject }));
  } catch (error) {
    const fault = `the row group cannot be read (${messageOf(error)})`;
    return [{ row: rowStart + 1, rows: rowEnd - rowStart, fault }];
  }
}

/** Parquet knows values that JSON does not: integers beyond 2^53 become texts, times ISO 8601, bytes base64. */
function jsonOf(value: unknown): Json {
  if (value === null || value === undefined) return null;
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<unknown>, jsonOf);
  if (Array.isArray(value)) return value.map(jsonOf);
  if (typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, jsonOf(inner)]));
  return value as Json;
}

const messageOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).slice(0, 200);
