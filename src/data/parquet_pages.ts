/** Checks the page headers of a row group before anything decodes them: a damaged count or size would otherwise make the
 *  decoder run without an end, or ask for any amount of memory.
 *  Source: the Parquet format's PageHeader (parquet.thrift). */
import type { AsyncBuffer, RowGroup } from "hyparquet";
import { deserializeTCompactProtocol } from "hyparquet/src/thrift.js";

/** Throws an Error that says what is wrong. */
export async function checkPages(file: AsyncBuffer, group: RowGroup, bytesMax: number): Promise<void> {
  for (const { meta_data: column } of group.columns) {
    if (!column) throw new Error("a column has no metadata");
    const start = Number(column.dictionary_page_offset ?? column.data_page_offset);
    const end = start + Number(column.total_compressed_size);
    if (!(start >= 0 && end > start && end <= file.byteLength))
      throw new Error("a column lies outside the file");
    const view = new DataView(await file.slice(start, end));
    let values = 0;
    const reader = { view, offset: 0 };
    while (reader.offset < view.byteLength && values < Number(column.num_values))
      values += nextPage(reader, bytesMax);
    if (values !== Number(column.num_values))
      throw new Error("the pages of a column hold another number of values");
  }
}

/** How many values the page at the reader holds; the reader is moved behind it. */
function nextPage(reader: { view: DataView; offset: number }, bytesMax: number): number {
  const header = deserializeTCompactProtocol(reader) as { [field: string]: unknown };
  const [unpacked, packed] = [header.field_2, header.field_3];
  const fits = (size: unknown, most: number): boolean =>
    typeof size === "number" && size >= 0 && size <= most;
  if (!fits(packed, reader.view.byteLength - reader.offset) || !fits(unpacked, bytesMax))
    throw new Error("a page has a size that cannot be");
  reader.offset += packed as number;
  const data = (header.field_5 ?? header.field_8) as { field_1?: unknown } | undefined;
  const dictionary = header.field_7 as { field_1?: unknown } | undefined;
  const count = (data ?? dictionary)?.field_1;
  if (!fits(count, bytesMax)) throw new Error("a page has a number of values that cannot be");
  if (data !== undefined && count === 0) throw new Error("a page is empty");
  return data === undefined ? 0 : (count as number);
}
